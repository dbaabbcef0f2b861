"""Plots as SVG: trade-off, distribution of run times, time by operation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgesdk.report import words
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.markup import Markup, el, join
from edgesdk.report.scale import Scale, scale_for

WIDTH = 920
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 30, 50
_LEAST_LOSS = 1e-7
"""Smaller losses are drawn as none: float32 closeness does not resolve them."""


@dataclass(frozen=True, slots=True)
class _Point:
    row: Row
    number: int
    x: float
    y: float


def tradeoff(
    report: DeployReport, numbers: Mapping[str, int], *, by: Literal["speed", "size"]
) -> Markup | None:
    """Speed or size to the right, closeness to the original upwards; nothing beats the frontier."""
    rows = [row for row in report.rows if row.loss is not None and _across(row, by) is not None]
    if len(rows) < 2:
        return None
    least = _least([row.loss or 0.0 for row in rows])
    points = [
        _Point(row, numbers[row.name], _across(row, by) or 0.0, max(row.loss or 0.0, least))
        for row in rows
    ]
    return _scatter(points, report, by=by, least=least)


def _least(losses: Sequence[float]) -> float:
    """Where no loss is drawn on the axis of decades: a step below the smallest real one."""
    real = [loss for loss in losses if loss > _LEAST_LOSS]
    return min(real) / 3 if real and len(real) < len(losses) else _LEAST_LOSS


def _across(row: Row, by: Literal["speed", "size"]) -> float | None:
    if by == "speed":
        return row.speedup.value if row.speedup else None
    return row.size_bytes / 1e6 if row.size_bytes is not None else None


def _scatter(
    points: Sequence[_Point], report: DeployReport, *, by: Literal["speed", "size"], least: float
) -> Markup:
    height = 400
    is_speed = by == "speed"
    ends = [point.x for point in points]
    if is_speed:
        ends += [bound for point in points for bound in _bounds(point.row)]
    across = scale_for(ends, _LEFT, WIDTH - _RIGHT, zero=True)
    # The better end of the quality axis is up.
    up = scale_for([p.y for p in points], _TOP, height - _BOTTOM, log=True)
    front = _frontier(points, is_speed=is_speed)
    path = " ".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in front)
    titles = (
        f"{words.pace(report)} against the float original (x)"
        if is_speed
        else "size of the artifact (MB)",
        _loss_title(report),
    )
    return el(
        "svg",
        *_frame(across, up, height, *titles),
        _none_lost(up, least) if any(point.y == least for point in points) else None,
        _one_line(across, height) if is_speed else None,
        el("polyline", points=path, class_="front") if len(front) > 1 else None,
        *(_error_bar(p, across, up) for p in points if is_speed),
        # The winner last, so that no other covers it.
        *(_mark(p, across, up, report) for p in sorted(points, key=lambda p: -p.number)),
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=" against ".join(titles[::-1]),
    )


def _loss_title(report: DeployReport) -> str:
    """What `Row.loss` is here."""
    is_metric = any(row.metrics for row in report.rows)
    return "loss of the worst metric" if is_metric else "1 - cosine of the worst output"


def _none_lost(up: Scale, least: float) -> Markup:
    return el("text", "none", x=_LEFT - 8, y=up(least) + 4, class_="tick end")


def _bounds(row: Row) -> list[float]:
    if row.speedup is None:
        return []
    return [b for b in (row.speedup.low, row.speedup.high) if math.isfinite(b)]


def _frontier(points: Sequence[_Point], *, is_speed: bool) -> list[_Point]:
    """Points that no other beats in both directions, from left to right."""
    sign = -1.0 if is_speed else 1.0
    best: list[_Point] = []
    for point in sorted(points, key=lambda p: (sign * p.x, p.y)):
        if not best or point.y < best[-1].y:
            best.append(point)
    return sorted(best, key=lambda p: p.x)


def _frame(across: Scale, up: Scale, height: int, x_title: str, y_title: str) -> list[Markup]:
    bottom = height - _BOTTOM
    parts: list[Markup] = []
    for tick in across.ticks(8):
        x = across(tick)
        parts.append(el("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(el("text", _tick(tick), x=x, y=bottom + 18, class_="tick mid"))
    for tick in up.ticks(7):
        y = up(tick)
        if y < _TOP + 12:  # too near to the word for no loss
            continue
        parts.append(el("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", _tick(tick), x=_LEFT - 8, y=y + 4, class_="tick end"))
    parts.append(
        el("text", x_title, x=(_LEFT + WIDTH - _RIGHT) / 2, y=height - 10, class_="axis mid")
    )
    parts.append(el("text", f"{y_title}, less is up", x=_LEFT - 60, y=16, class_="axis"))
    return parts


def _one_line(across: Scale, height: int) -> Markup:
    x = across(1.0)
    return el("line", x1=x, x2=x, y1=_TOP, y2=height - _BOTTOM, class_="one")


def _tick(value: float) -> str:
    if value != 0 and (abs(value) < 0.001 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:g}"


def _error_bar(point: _Point, across: Scale, up: Scale) -> Markup | None:
    bounds = _bounds(point.row)
    if len(bounds) < 2:
        return None
    y = up(point.y)
    return el("line", x1=across(bounds[0]), x2=across(bounds[1]), y1=y, y2=y, class_="error-bar")


def _figures(row: Row) -> list[str]:
    if row.instructions is not None:
        counted = f"{words.millions(row.instructions)} million instructions"
        return [f"{words.times(row.speedup)} fewer instructions", counted]
    if row.latency is None:
        return [f"{words.times(row.speedup)} smaller", words.megabytes(row.size_bytes)]
    return [f"speed {words.times(row.speedup)}", f"p95 {words.milliseconds(row.p95_ms)} ms"]


def _mark(point: _Point, across: Scale, up: Scale, report: DeployReport) -> Markup:
    row, x, y = point.row, across(point.x), up(point.y)
    said = [
        row.name,
        words.STATUS_WORDS.get(row.status, row.status),
        *_figures(row),
        words.megabytes(row.size_bytes),
        f"cosine {words.cosine(row.cosine)}",
    ]
    is_chosen = row.name == report.chosen
    return el(
        "g",
        el("title", "\n".join(said)),
        el("circle", cx=x, cy=y, r=13 if is_chosen else 10),
        el("text", point.number, x=x, y=y + 4, class_="number"),
        _label(row.name, x, y) if is_chosen else None,
        class_=f"mark s-{row.status}",
    )


def _label(name: str, x: float, y: float) -> Markup:
    """The winner's name above its mark, towards the side that has room."""
    is_right = x > WIDTH * 0.6
    return el(
        "text",
        name,
        x=x + 12 if is_right else x - 12,
        y=y - 17,
        class_="label end" if is_right else "label",
    )


def distributions(report: DeployReport, numbers: Mapping[str, int]) -> Markup | None:
    """One line a candidate: 5 to 95 % of its runs, the middle half as a box, the median in it."""
    rows = [row for row in report.rows if row.latency and len(row.latency.runs_ms) >= 2]
    if not rows:
        return None
    rows.sort(key=lambda row: row.latency.p50_ms if row.latency else 0.0)
    shares = [
        _quantiles(row.latency.runs_ms, (0.05, 0.25, 0.5, 0.75, 0.95))
        for row in rows
        if row.latency
    ]
    step, left, right = 26, 330, 150
    height = _TOP + step * len(rows) + 46
    ends = [value for found in shares for value in (found[0], found[-1])]
    wide = min(ends) > 0 and max(ends) / min(ends) > 30
    across = scale_for(ends, left, WIDTH - right, zero=not wide, log=wide)
    parts: list[Markup] = []
    for tick in across.ticks(7):
        x = across(tick)
        parts.append(el("line", x1=x, x2=x, y1=_TOP - 6, y2=height - 40, class_="grid"))
        parts.append(el("text", _tick(tick), x=x, y=height - 24, class_="tick mid"))
    title = "milliseconds a run" + (" (log)" if wide else "")
    parts.append(el("text", title, x=(left + WIDTH - right) / 2, y=height - 6, class_="axis mid"))
    parts.append(el("text", "p50", x=WIDTH - 76, y=16, class_="axis end"))
    parts.append(el("text", "p95 ms", x=WIDTH - 6, y=16, class_="axis end"))
    for index, (row, found) in enumerate(zip(rows, shares, strict=True)):
        parts.append(_box(row, found, across, _TOP + step * index + step / 2, left, numbers))
    return el(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label="distribution of run times",
    )


def _box(
    row: Row,
    found: Sequence[float],
    across: Scale,
    y: float,
    left: int,
    numbers: Mapping[str, int],
) -> Markup:
    p5, p25, p50, p75, p95 = (across(value) for value in found)
    name = row.name if len(row.name) <= 44 else row.name[:43] + "…"
    return el(
        "g",
        el("title", f"{row.name}\n{row.latency.count if row.latency else 0} runs"),
        el("text", f"{numbers[row.name]}  {name}", x=left - 12, y=y + 4, class_="label end"),
        el("line", x1=p5, x2=p95, y1=y, y2=y, class_="whisker"),
        el("rect", x=p25, y=y - 7, width=max(p75 - p25, 1.5), height=14, rx=2, class_="box"),
        el("line", x1=p50, x2=p50, y1=y - 9, y2=y + 9, class_="median"),
        el("text", words.milliseconds(row.p50_ms), x=WIDTH - 76, y=y + 4, class_="tick end"),
        el("text", words.milliseconds(row.p95_ms), x=WIDTH - 6, y=y + 4, class_="tick end"),
        class_=f"mark s-{row.status}",
    )


def _quantiles(values: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Linear between the two nearest runs, like numpy's."""
    ordered = sorted(values)
    found = []
    for share in shares:
        at = share * (len(ordered) - 1)
        low = math.floor(at)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (at - low) * (ordered[high] - ordered[low]))
    return found


def operations(rows: Sequence[Row], *, most: int = 12) -> Markup | None:
    """Milliseconds a run by operation, one group of bars an operation, one bar a row."""
    totals = [words.op_totals(row.node_times) for row in rows]
    together = {op: max(found.get(op, 0.0) for found in totals) for op in set().union(*totals)}
    ops = sorted(together, key=lambda op: (-together[op], op))
    if not ops:
        return None
    shown = ops[:most]
    bars = [(op, [found.get(op, 0.0) for found in totals]) for op in shown]
    if ops[most:]:
        rest = [sum(found.get(op, 0.0) for op in ops[most:]) for found in totals]
        bars.append((f"{len(ops) - most} others", rest))
    return _bars(bars, rows)


def _bars(bars: Sequence[tuple[str, Sequence[float]]], rows: Sequence[Row]) -> Markup:
    left, thick, gap = 230, 12, 12
    step = thick * len(rows) + gap
    height = 8 + step * len(bars) + 8
    most = max(value for _, values in bars for value in values)
    across = Scale(0.0, most or 1.0, left, WIDTH - 90)
    parts: list[Markup] = []
    for index, (op, values) in enumerate(bars):
        top = 8 + index * step
        middle = top + thick * len(rows) / 2 + 4
        parts.append(el("text", op, x=left - 12, y=middle, class_="label end"))
        for place, (row, value) in enumerate(zip(rows, values, strict=True)):
            y = top + place * thick
            x = across(value)
            said = f"{row.name}: {op} {words.milliseconds(value)} ms"
            parts.append(
                el(
                    "g",
                    el("title", said),
                    el(
                        "rect",
                        x=left,
                        y=y,
                        width=max(x - left, 0.5),
                        height=thick - 2,
                        class_="bar",
                    ),
                    el(
                        "text",
                        words.milliseconds(value) if value else "",
                        x=x + 6,
                        y=y + 9,
                        class_="small",
                    ),
                    class_=f"mark s-{row.status}" if len(rows) > 1 else "mark s-chosen",
                )
            )
    return el(
        "svg",
        join(*parts),
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label="time by operation",
    )
