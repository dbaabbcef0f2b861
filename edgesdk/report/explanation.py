"""A plan in words: what would be tried and why, what was ruled out and by which fact."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from edgesdk.cause import Cause
from edgesdk.plan.candidate import Alternative, Plan, Rejected
from edgesdk.report import words


def explained(plan: Plan, command: Sequence[str]) -> dict[str, Any]:
    """The plan as data, every alternative with the command that applies it.

    Args:
        plan: what to explain.
        command: the words of the deploy that the plan is for.
    """
    document = plan.to_json()
    for item, told in zip(plan.rejected, document["rejected"], strict=True):
        if item.alternative:
            told["alternative"]["command"] = _command(command, item.alternative)
    return {**document, "command": shlex.join(command)}


def explanation_view(plan: Plan, command: Sequence[str]) -> RenderableType:
    """The plan for people, backend by backend in the plan's order.

    Args:
        plan: what to explain.
        command: the words of the deploy that the plan is for.
    """
    numbers = {item.name: number for number, item in enumerate(plan.candidates, start=1)}
    parts: list[RenderableType] = [
        Text.assemble("everything is compared with ", (plan.baseline.name, "bold"), _fixed(plan))
    ]
    for backend in _backends(plan):
        parts.append(Text(f"\n{words.plain(backend)}", style="bold underline"))
        parts += _tried(plan, backend, numbers)
        refused = [item for item in plan.rejected if _backend(item.name) == backend]
        if refused:
            parts.append(Text("  ruled out", style="bold"))
        for item in refused:
            parts += _refused(item, numbers, command)
    if plan.notes:
        parts.append(Text("\nTo know", style="bold"))
        parts += [_line(4, (note, "yellow")) for note in plan.notes]
    return Group(*parts)


def _fixed(plan: Plan) -> str:
    if plan.shapes is None:
        return "; shapes stay as the model has them"
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in plan.shapes)
    return words.plain(f"; shapes fixed as in the samples: {shapes}")


def _backends(plan: Plan) -> list[str]:
    """All backends that the plan speaks of, the baseline's first."""
    names = [plan.baseline.name, *(item.name for item in plan.candidates)]
    names += [item.name for item in plan.rejected]
    return list(dict.fromkeys(map(_backend, names)))


def _backend(name: str) -> str:
    return name.partition("/")[0]


def _recipe(name: str) -> str:
    return name.partition("/")[2]


def _tried(plan: Plan, backend: str, numbers: dict[str, int]) -> Iterator[RenderableType]:
    found = [item for item in plan.candidates if _backend(item.name) == backend]
    if not found:
        return
    yield Text("  would try (numbers are the order over all backends)", style="bold")
    for item in found:
        yield _line(
            4, (f"{numbers[item.name]:2}  ", "dim"), (_recipe(item.name), "cyan"), (item.why, "")
        )
        if item.needs:
            yield _line(8, (f"needs {', '.join(item.needs)}", "dim"))


def _refused(
    item: Rejected, numbers: dict[str, int], command: Sequence[str]
) -> Iterator[RenderableType]:
    whys = dict.fromkeys(cause.why for cause in item.causes if cause.why)
    yield _line(4, (_recipe(item.name), "yellow"), ("; ".join(whys), ""))
    for cause in item.causes:
        yield from _fact(cause)
    instead = item.alternative
    if instead is None:
        return
    if instead.name in numbers:
        yield _line(8, (f"instead: {instead.name}, number {numbers[instead.name]} here", "green"))
        return
    head = "to try it" if instead.name == item.name else f"instead: {instead.name}"
    yield _line(8, (f"{head}:", "green"), (_command(command, instead), ""))


def _fact(cause: Cause) -> Iterator[RenderableType]:
    """The line that rules out, and where it is from."""
    place = cause.file or f"the {cause.kind}"
    yield _line(8, (f"{place}:", "dim"), (cause.fact, ""))
    dated = ", ".join(filter(None, (cause.source, cause.date)))
    if dated:
        yield _line(10, (f"from {dated}", "dim"))


def _command(command: Sequence[str], instead: Alternative) -> str:
    return shlex.join((*command, *instead.options))


def _line(indent: int, *parts: tuple[str, str]) -> RenderableType:
    text = Text("  ").join(Text(words.plain(said), style=style) for said, style in parts if said)
    return Padding(text, (0, 0, 0, indent), expand=False)
