"""A page as one HTML file that needs nothing else: no network, no fonts, no libraries."""

from __future__ import annotations

from pathlib import Path

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
