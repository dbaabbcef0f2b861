"""A page as one HTML file that needs nothing else: no network, no fonts, no libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edgesdk.report.markup import Markup, el

_FOLDER = Path(__file__).parent
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser itself keeps the page from asking any network."""


def page(title: str, *content: Markup | None, footer: str) -> str:
    """The whole file; equal content gives equal bytes."""
    style, script = (
        Markup((_FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", style),
    )
    body = el("body", el("main", *content), el("footer", footer), el("script", script))
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def section(title: str, content: Markup | None, note: str = "") -> Markup | None:
    """A part of the page under its title; None where there is nothing to show."""
    if content is None:
        return None
    return el("section", el("h2", title), el("p", note, class_="note") if note else None, content)


class Named(Protocol):
    """A row of a report."""

    @property
    def name(self) -> str: ...


class Headed(Protocol):
    """What the head of a deploy's page is made of."""

    @property
    def title(self) -> str: ...
    @property
    def headline(self) -> str: ...
    @property
    def budget(self) -> Sequence[str]: ...
    @property
    def floors(self) -> Sequence[str]: ...
    @property
    def bundle(self) -> str | None: ...
    @property
    def chosen_row(self) -> Named | None: ...


def header(report: Headed) -> Markup:
    """What was chosen, why, and what was asked for."""
    chosen = report.chosen_row
    verdict = el("span", chosen.name, class_="winner") if chosen else "Nothing meets the budget"
    asked = [*report.budget, *report.floors]
    return el(
        "header",
        el("p", report.title, class_="title"),
        el("h1", verdict),
        el("p", report.headline, class_="headline"),
        el("p", "Asked for: ", ", ".join(asked), class_="note") if asked else None,
        el("p", "Bundle: ", el("code", report.bundle), class_="note") if report.bundle else None,
        class_="" if chosen else "none",
    )
