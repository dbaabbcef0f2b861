"""Typed access to a JSON document: a complaint names the key, the value and what is legal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from edgesdk.errors import BundleError

_SHOWN = 60


def parse_json(data: bytes, where: str) -> Field:
    """A JSON document as a `Field`, refusing what JSON does not have.

    Raises:
        BundleError: no UTF-8, no JSON, a repeated key, NaN or Infinity, or nested absurdly deep.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{where} is not a JSON document: {exc}") from exc
    return Field(where=where, value=value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"repeated key {twice[0]!r}")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


@dataclass(frozen=True, slots=True)
class Field:
    """A value and the way to it, for messages such as `manifest.json: components[0].threads`."""

    where: str
    value: Any

    def wrong(self, legal: str) -> BundleError:
        """The error that says what is here and what would be legal."""
        shown = repr(self.value)
        if len(shown) > _SHOWN:
            shown = shown[:_SHOWN] + "…"
        return BundleError(f"{self.where} is {shown}; must be {legal}")

    def __getitem__(self, key: str) -> Field:
        found = self.get(key)
        if found is None:
            raise BundleError(f"{self._below(key)} is missing")
        return found

    def get(self, key: str) -> Field | None:
        """The field of that name, or None where it is absent."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        if key not in self.value:
            return None
        return Field(self._below(key), self.value[key])

    def _below(self, key: str) -> str:
        return f"{self.where}: {key}" if self.where.endswith(".json") else f"{self.where}.{key}"

    def items(self) -> Iterator[Field]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self.wrong("an array")
        for index, value in enumerate(self.value):
            yield Field(f"{self.where}[{index}]", value)

    def pairs(self) -> Iterator[tuple[str, Field]]:
        """Keys and values of an object, keys checked like any other text."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        for key, value in self.value.items():
            yield Field(f"a key of {self.where}", key).text(), Field(self._below(key), value)

    def text(self, *, empty: bool = False) -> str:
        """A string, not empty unless told; no control characters: they could fool a terminal."""
        value = self.value
        if not isinstance(value, str) or not (value or empty):
            raise self.wrong("a string" if empty else "a non-empty string")
        if any(ord(char) < 32 and char not in "\n\t" for char in value) or "\x7f" in value:
            raise self.wrong("a string without control characters")
        if any(0xD800 <= ord(char) < 0xE000 for char in value):
            raise self.wrong("valid Unicode")
        return value

    def match(self, pattern: str, legal: str) -> str:
        """A string that matches the whole pattern."""
        value = self.text()
        if not re.fullmatch(pattern, value):
            raise self.wrong(legal)
        return value

    def one_of(self, legal: Collection[str]) -> str:
        """One of some words."""
        value = self.text()
        if value not in legal:
            raise self.wrong("one of: " + ", ".join(sorted(legal)))
        return value

    def sha256(self) -> str:
        """A SHA-256 digest as 64 lower-case hex digits."""
        return self.match(r"[0-9a-f]{64}", "64 lower-case hex digits")

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def integer(self, least: int = 0) -> int:
        """A whole number of at least `least` that fits 64 bits."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong("a whole number")
        if not least <= self.value < 2**63:
            raise self.wrong(f"a whole number of at least {least} that fits 64 bits")
        return self.value

    def number(self, least: float | None = None) -> float:
        """A finite number, of at least `least` where that is given."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self.wrong("a number")
        try:
            value = float(self.value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value) or (least is not None and value < least):
            raise self.wrong(
                "a finite number" + (f" of at least {least}" if least is not None else "")
            )
        return value

    def number_or_none(self) -> float | None:
        """A finite number or null."""
        return None if self.value is None else self.number()
