"""What quantizing costs at single nodes and sets of them, simulated in child processes and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgesdk.bench import Bench, Prepared, tool_versions
from edgesdk.making import compress_choice
from edgesdk.model import read_model
from edgesdk.plan.candidate import Choice
from edgesdk.plan.damage import SensitivityTable
from edgesdk.precision import Precision

_ROWS = 8
"""Calibration rows that damages are seen on; a node's damage settles within a few."""


def sensitivity(bench: Bench, precisions: Sequence[str], prepared: Prepared) -> SensitivityTable:
    """The damage of every node at each precision, simulated.

    Raises:
        StepFailed: the model cannot be simulated.
    """
    request, identity = _looked_at(bench, prepared)
    wanted = {"precisions": list(precisions)}
    done = bench.workshop.step("sensitivity", {**request, **wanted}, {**identity, **wanted})
    return SensitivityTable.from_json(done.response)


def sensitivity_of(bench: Bench, choice: Choice, prepared: Prepared) -> SensitivityTable:
    """The damage of every node that a recipe quantizes, in the model that it wrote where that shows it.

    Raises:
        StepFailed: the model cannot be simulated.
    """
    whole = compress_choice(bench, replace(choice, kept=()), prepared)
    if choice.recipe.mode == "static":
        request, identity = _looked_at(bench, prepared)
        precision = {"precision": choice.recipe.stored.name}
        done = bench.workshop.step(
            "written",
            {**request, **precision, "quantized": str(whole.path)},
            {**identity, **precision, "quantized": whole.key},
        )
        return SensitivityTable.from_json(done.response)
    table = sensitivity(bench, [Precision.of(choice.recipe).name], prepared)
    before, after = (read_model(path).nodes for path in (prepared.path, whole.path))
    untouched = {(node.name, node.op, node.inputs) for node in after}
    changed = {n.name for n in before if (n.name, n.op, n.inputs) not in untouched}
    return replace(table, nodes=tuple(item for item in table.nodes if item.node in changed))


def damage_of_sets(
    bench: Bench, choice: Choice, prepared: Prepared, kept: Sequence[Sequence[str]]
) -> tuple[float, ...]:
    """Noise over signal at the worst output with each of these sets of nodes spared, simulated.

    Raises:
        StepFailed: the model cannot be simulated.
    """
    request, identity = _looked_at(bench, prepared)
    form: dict[str, Any] = {"quantized": None, "precision": None}
    key = dict(form)
    if choice.recipe.mode == "static":
        whole = compress_choice(bench, replace(choice, kept=()), prepared)
        form["quantized"], key["quantized"] = str(whole.path), whole.key
    else:
        form["precision"] = key["precision"] = Precision.of(choice.recipe).name
    sets = {"kept": [list(names) for names in kept]}
    done = bench.workshop.step("mixtures", {**request, **form, **sets}, {**identity, **key, **sets})
    return tuple(done.response["damages"])


def _looked_at(bench: Bench, prepared: Prepared) -> tuple[dict[str, Any], dict[str, Any]]:
    """What steps that simulate take, and its identity."""
    rows = bench.samples.calibration.subset(_ROWS)
    common = {"threads": bench.threads}
    return (
        {**common, "model": str(prepared.path), "rows": rows.to_json()},
        {
            **common,
            "model": prepared.key,
            "rows": [bench.samples.fingerprint, len(rows)],
            "tools": tool_versions(),
        },
    )
