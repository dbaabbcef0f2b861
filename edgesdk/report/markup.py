"""Elements of HTML and SVG: whatever is no `Markup` yet is escaped, so nothing can be forgotten."""

from __future__ import annotations

import html

from edgesdk.report.words import plain

_VOID = frozenset({"meta", "link", "input", "br"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(value: object) -> str:
    """Text for an element or a quoted attribute."""
    return value if isinstance(value, Markup) else html.escape(plain(str(value)), quote=True)


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. `class_` is `class`, `_` becomes `-`, None and False leave an attribute out."""
    spelled = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escaped(_short(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{spelled}>")
    return Markup(f"<{name}{spelled}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Several pieces, one after the other."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def _short(value: object) -> object:
    """Coordinates need no more than two places."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
