"""Bars of what single nodes cost in quality when they are quantized, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgesdk.report.markup import Markup, el
from edgesdk.report.plots import WIDTH
from edgesdk.report.scale import Scale

DECADES = 4
"""A full bar is the worst damage; an empty one a ten-thousandth of it."""
NAME = 36
"""Of a longer name its end is shown: exporters put what differs there."""
_NOTHING = 1e-200
"""Damage up to here is none; decades below it are no numbers any more."""
_LEFT, _RIGHT, _STEP = 380, 230, 20
_DAMAGE, _NOTE = WIDTH - 130, WIDTH - 4
"""Where the figures at the right end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One node.

    Attributes:
        damage: noise over signal power at the worst output, from 0.
        seen: False where the damage is estimated.
        tone: a status whose colour it takes.
        note: what stands at the right, in a few words.
        said: what is said when it is pointed at.
    """

    node: str
    op: str
    damage: float
    seen: bool = True
    tone: str = "not_better"
    note: str = ""
    said: str = ""


def damage_bars(bars: Sequence[Bar], title: str, *, note: str = "") -> Markup | None:
    """One line a node, by decades; None where no node does any damage.

    Args:
        bars: in the order in which they are shown.
        title: for those who cannot see it.
        note: what stands above the notes at the right.
    """
    worst = max((bar.damage for bar in bars), default=0.0)
    if worst <= _NOTHING:
        return None
    across = Scale(worst / 10**DECADES, worst, _LEFT, WIDTH - _RIGHT, log=True)
    height = 26 + _STEP * len(bars) + 24
    parts: list[Markup] = []
    for tick in across.ticks(DECADES + 1):
        x = across(tick)
        parts.append(el("line", x1=x, x2=x, y1=20, y2=height - 22, class_="grid"))
        parts.append(el("text", _power(f"{tick:.0e}"), x=x, y=14, class_="tick mid"))
    axis = "noise over signal power at the worst output (log)"
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(el("text", axis, x=middle, y=height - 4, class_="axis mid"))
    parts.append(el("text", "damage", x=_DAMAGE, y=14, class_="axis end"))
    parts.append(el("text", note, x=_NOTE, y=14, class_="axis end"))
    parts += [_line(bar, across, 24.0 + _STEP * at) for at, bar in enumerate(bars)]
    return el(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=title,
        class_="damage",
    )


def _line(bar: Bar, across: Scale, top: float) -> Markup:
    said = f"{bar.node}\n{bar.op}, damage {bar.damage:.2e}" + (f"\n{bar.said}" if bar.said else "")
    shown = ("" if bar.seen else "est. ") + _power(f"{bar.damage:.1e}")
    end = across(bar.damage) if bar.damage > 0 else float(_LEFT)
    y = top + 13
    return el(
        "g",
        el("title", said),
        el("text", short(bar.node), x=_LEFT - 108, y=y, class_="label end"),
        el("text", short(bar.op, 15), x=_LEFT - 98, y=y, class_="tick"),
        el("rect", x=_LEFT, y=top + 3, width=max(end - _LEFT, 0.5), height=13, class_="bar"),
        el("text", shown, x=_DAMAGE, y=y, class_="tick end"),
        el("text", bar.note, x=_NOTE, y=y, class_="tick end") if bar.note else None,
        class_=f"mark s-{bar.tone}",
    )


def _power(text: str) -> str:
    return text.replace("e-0", "e-").replace("e+0", "e+")


def short(name: str, most: int = NAME) -> str:
    """The end of a long name."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def share_of_bar(damage: float, worst: float) -> float:
    """How long a bar is, 0 to 1."""
    if damage <= 0 or not 0 < worst < math.inf:
        return 0.0
    return max(0.0, 1 + (math.log10(damage) - math.log10(worst)) / DECADES)
