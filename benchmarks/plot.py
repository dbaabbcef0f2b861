"""A plot of a result that stands alone as SVG: names beside their points, sizes by decades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesdk.report.markup import Markup, el
from edgesdk.report.scale import scale_for

_WIDTH, _HEIGHT = 920, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 230, 30, 46
_LINE = 15
_STYLE = """
svg { background: #fff; font: 12.5px system-ui, sans-serif; }
.grid { stroke: #e4e4e7; } .soft { fill: #666; } .mid { text-anchor: middle; } .end { text-anchor: end; }
circle { fill: #2563eb; } .first circle { fill: #b45309; } .lead { stroke: #a1a1aa; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that was measured; `x` is above 0."""

    name: str
    x: float
    y: float


def plot(points: Sequence[Point], *, x_title: str, y_title: str) -> str:
    """An SVG image; the first point, which the others are compared with, has another colour."""
    across = scale_for([point.x for point in points], _LEFT, _WIDTH - _RIGHT, log=True)
    up = scale_for([point.y for point in points], _HEIGHT - _BOTTOM, _TOP)
    bottom = _HEIGHT - _BOTTOM
    parts = [el("style", Markup(_STYLE))]
    for tick in across.ticks(8):
        x = across(tick)
        parts.append(el("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=x, y=bottom + 18, class_="soft mid"))
    for tick in up.ticks(8):
        y = up(tick)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=_LEFT - 8, y=y + 4, class_="soft end"))
    parts.append(
        el("text", x_title, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 8, class_="soft mid")
    )
    parts.append(el("text", y_title, x=_LEFT - 50, y=16, class_="soft"))
    # Names stand in a column at the right, in the order of their points, so that none covers another.
    order = sorted(range(len(points)), key=lambda place: up(points[place].y))
    column = _WIDTH - _RIGHT + 40
    lines = _spread([up(points[place].y) for place in order])
    for place, line in zip(order, lines, strict=True):
        point = points[place]
        x, y = across(point.x), up(point.y)
        parts.append(
            el(
                "g",
                el("line", x1=x, y1=y, x2=column - 4, y2=line, class_="lead"),
                el("circle", cx=x, cy=y, r=5),
                el("text", point.name, x=column, y=line + 4),
                class_="first" if place == 0 else None,
            )
        )
    image = el(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{y_title} against {x_title}",
    )
    return f"{image}\n"


def _spread(heights: Sequence[float]) -> list[float]:
    """Ascending heights, moved apart where they are nearer than a line."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + _LINE) if found else height)
    over = found[-1] - (_HEIGHT - _BOTTOM) if found else 0.0
    return [height - max(over, 0.0) for height in found]
