"""What structural steps took out of the forms that were measured, beside the same forms without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgesdk.bench import Trial
from edgesdk.errors import EdgeSdkError
from edgesdk.holdings import Holdings, holdings
from edgesdk.model import read_model
from edgesdk.plan.candidate import Choice
from edgesdk.report.document import Removed
from edgesdk.samples import Sample
from edgesdk.structural import Structure


def removed_by(
    trials: Sequence[Trial], baseline: Trial, chosen: str | None, row: Sample
) -> dict[str, Removed]:
    """By name of the form, what its last structural step removed; of those that were measured.

    Args:
        trials: everything that was tried.
        baseline: the original, for forms that were not tried without their step.
        chosen: name of the winner.
        row: inputs of the shapes that multiply-accumulates are counted for.
    """
    tried = {trial.built.choice: trial for trial in trials if trial.built}
    winner = next((t.built.choice for t in trials if t.built and t.outcome.name == chosen), None)
    found = {}
    for trial in trials:
        if trial.built is None or trial.outcome.measurement is None:
            continue
        if not _removing(trial.built.choice):
            continue
        before = _before(trial.built.choice, tried) or baseline
        ours, theirs = (_held(one, row) for one in (trial, before))
        if ours is None or theirs is None:
            continue
        found[trial.outcome.name] = Removed(
            before=before.outcome.name,
            parameters=_less(ours.parameters, theirs.parameters),
            macs=_less(ours.macs, theirs.macs) if ours.macs and theirs.macs else None,
            kept=winner is not None and _stands_in(trial.built.choice, winner),
        )
    return found


def _before(choice: Choice, tried: Mapping[Choice, Trial]) -> Trial | None:
    """The measured form without the last step that removes something, or without any."""
    steps = _removing(choice)
    lesson = [step for step in choice.structure if step.kind == "distill"]
    for structure in ((*steps[:-1], *lesson), steps[:-1], ()):
        known = tried.get(replace(choice, structure=structure))
        if known is not None and known.outcome.measurement is not None:
            return known
    return None


def _removing(choice: Choice) -> Structure:
    """Its steps but for training, which takes nothing out."""
    return tuple(step for step in choice.structure if step.kind != "distill")


def _stands_in(choice: Choice, winner: Choice) -> bool:
    """Whether the winner is this form, or it with more steps."""
    steps = _removing(choice)
    same = (choice.backend, choice.recipe) == (winner.backend, winner.recipe)
    return same and _removing(winner)[: len(steps)] == steps


def _held(trial: Trial, row: Sample) -> Holdings | None:
    graph: Path | None = trial.built.graph if trial.built else None
    if graph is None:
        return None
    try:
        return holdings(read_model(graph), row)
    except EdgeSdkError:
        return None  # a file that only its engine reads


def _less(ours: int, theirs: int) -> float:
    return 1.0 - ours / max(theirs, 1)
