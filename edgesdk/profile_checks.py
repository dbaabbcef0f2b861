"""Checks of a parsed TOML document, key by key.

Each takes a table, a key and the dotted path of the table, and returns the value or raises a
`ProfileError` with the dotted key, the value seen and the legal ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import date
from difflib import get_close_matches
from typing import Any, TypeVar

from edgesdk.errors import ProfileError

Table = dict[str, Any]
_T = TypeVar("_T")


def check_keys(table: Table, path: str, legal: Collection[str]) -> None:
    """Refuse a key that the schema does not know, with the nearest that it does."""
    for key in table:
        if key not in legal:
            problem = f"unknown key {join(path, key)!r}{_hint(key, legal)}"
            raise ProfileError(f"{problem}; legal here: {', '.join(legal)}")


def text(table: Table, key: str, path: str) -> str:
    """Text that is not empty."""
    if key not in table:
        raise ProfileError(f"missing key {join(path, key)!r}")
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise ProfileError(f"{join(path, key)} = {value!r}; legal: text")
    return value


def flag(table: Table, key: str, path: str) -> bool:
    """True or false."""
    value = table[key]
    if not isinstance(value, bool):
        raise ProfileError(f"{join(path, key)} = {value!r}; legal: true, false")
    return value


def optional(
    read: Callable[[Table, str, str], _T], table: Table, key: str, path: str, default: _T
) -> _T:
    """What `read` returns for a key that is there, else the default."""
    return read(table, key, path) if key in table else default


def strings(table: Table, key: str, path: str) -> tuple[str, ...]:
    """A list of texts; empty when the key is missing."""
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ProfileError(f"{join(path, key)} = {value!r}; legal: a list of texts")
    return tuple(value)


def texts(table: Table, key: str, path: str) -> dict[str, str]:
    """A table of texts; empty when the key is missing."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ProfileError(f"{join(path, key)} = {value!r}; legal: a table of texts")
    return {name: text(value, name, join(path, key)) for name in value}


def some_strings(table: Table, key: str, path: str) -> tuple[str, ...]:
    """A list of at least one text."""
    value = strings(table, key, path)
    if not value:
        raise ProfileError(f"missing key {join(path, key)!r}; legal: a list of at least one text")
    return value


def one_of(table: Table, key: str, path: str, legal: Collection[str]) -> str:
    """One of the legal texts."""
    value = text(table, key, path)
    member(value, join(path, key), legal)
    return value


def member(value: str, path: str, legal: Collection[str], words: str = "") -> None:
    """Refuse a value that is none of the legal ones; `words` describe a long list."""
    if value not in legal:
        told = words or ", ".join(legal) or "none is defined"
        raise ProfileError(f"{path}: {value!r}{_hint(value, legal)}; legal: {told}")


def day(table: Table, path: str) -> str:
    """The key `date`: `YYYY-MM-DD` or `YYYY-MM`, TOML's own dates included."""
    value = table.get("date")
    iso = value.isoformat() if isinstance(value, date) else value
    if isinstance(iso, str) and re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", iso) and _exists(iso):
        return iso
    raise ProfileError(f"{join(path, 'date')} = {value!r}; legal: YYYY-MM-DD or YYYY-MM")


def _exists(iso: str) -> bool:
    try:
        date.fromisoformat(iso if len(iso) == len("2026-01-01") else f"{iso}-01")
    except ValueError:
        return False
    return True


def tables(table: Table, key: str, legal: Collection[str]) -> list[tuple[str, Table]]:
    """Entries of a top-level list of named tables, each with its dotted path `key.name`."""
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ProfileError(f"{key} = {value!r}; legal: a list of tables, [[{key}]]")
    result: list[tuple[str, Table]] = []
    for index, entry in enumerate(value):
        check_keys(entry, f"{key}[{index}]", legal)
        path = f"{key}.{text(entry, 'name', f'{key}[{index}]')}"
        if any(path == other for other, _ in result):
            raise ProfileError(f"{path} is there twice; names are unique")
        result.append((path, entry))
    return result


def subtable(table: Table, key: str, path: str, legal: Collection[str] | None = None) -> Table:
    """A table inside a table; empty when the key is missing."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ProfileError(f"{join(path, key)} = {value!r}; legal: a table")
    if legal is not None:
        check_keys(value, join(path, key), legal)
    return value


def join(path: str, key: str) -> str:
    """The dotted path of a key."""
    return f"{path}.{key}" if path else key


def _hint(word: str, legal: Collection[str]) -> str:
    close = get_close_matches(word, legal, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
