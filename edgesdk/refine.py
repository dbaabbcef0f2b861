"""Mixed precision: which nodes of a quantized form stay float, found by damage and by milliseconds.

Whole-model recipes are tried first. The ones worth refining are the winner, and those that would be
as fast but fail the check. For each, the damage of every node (simulated, see
`edgesdk.diagnose.sensitivity`) and the time that quantizing it saves (the engine's own per-node times) give
nested sets of nodes to keep in float; each set is then tried like any other candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.decide import Outcome, decide, sure_speed
from edgesdk.errors import StepFailed
from edgesdk.events import Event
from edgesdk.model import read_model
from edgesdk.plan.allocate import Proposal, propose
from edgesdk.plan.candidate import Candidate, Choice
from edgesdk.plan.gain import TracedTimes, gains_ms, trace_times
from edgesdk.precision import Precision
from edgesdk.quality import Verdict
from edgesdk.recipe import Recipe
from edgesdk.trial import (
    Bench,
    Built,
    Original,
    Prepared,
    Trial,
    look_inside,
    measure_failed,
    sensitivity,
    try_candidate,
)

_MOST_BASES = 2
"""Forms that are refined: each costs a sensitivity pass and up to four candidates."""
_PROFILED_RUNS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """A quantized form to be refined: what it is, and whether it fails the check as it is."""

    trial: Trial
    built: Built
    speedup: float
    failed: bool


def refine(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    *,
    accept_undecided: bool,
) -> list[Trial]:
    """Candidates with some nodes kept in float, tried.

    Args:
        bench: what all trials share.
        trials: the whole-model candidates, tried.
        baseline: the original's outcome.
        original: what everything is compared with.
        start: the graph that each backend's recipes started from.
        accept_undecided: as in the decision.
    """
    found: list[Trial] = []

    def lead() -> float:
        outcomes = [trial.outcome for trial in (*trials, *found)]
        best = sure_speed(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
        return max(bench.settings.hopeless, best)

    for base in _bases(bench, trials, baseline, original, lead(), accept_undecided):
        for candidate in _candidates(bench, base, trials, start[base.built.choice.backend]):
            trial, _ = try_candidate(
                bench,
                candidate,
                original,
                start[base.built.choice.backend],
                hopeless=lead(),
            )
            found.append(trial)
            passed = trial.outcome.quality and trial.outcome.quality.verdict == Verdict.PASS
            if base.failed and passed:
                break  # larger sets are only slower
    return found


def _bases(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    lead: float,
    accept_undecided: bool,
) -> list[_Base]:
    """The winner where it is quantized, and failed forms that would be faster, fastest first."""
    outcomes = [trial.outcome for trial in trials]
    decision = decide(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
    bases = []
    for trial in trials:
        quality, built = trial.outcome.quality, trial.built
        if built is None or quality is None or built.choice.recipe.activation_bits > 16:
            continue
        failed = quality.verdict != Verdict.PASS
        if not failed and trial.outcome.name != decision.chosen:
            continue
        measured = trial.outcome.measurement
        if measured is None:
            measured = measure_failed(bench, trial, original, hopeless=lead)
        if measured and measured.speedup.high >= lead:
            speedup = measured.speedup.value
            bases.append(_Base(trial=trial, built=built, speedup=speedup, failed=failed))
    bases.sort(key=lambda base: -base.speedup)
    return bases[:_MOST_BASES]


def _candidates(
    bench: Bench, base: _Base, trials: Sequence[Trial], prepared: Prepared
) -> Iterator[Candidate]:
    """The base with ever more nodes kept in float."""
    choice = base.built.choice
    name = base.trial.outcome.name
    try:
        table, tensors = sensitivity(bench, [Precision.of(choice.recipe).name], prepared)
    except StepFailed as exc:
        bench.listen(Event(stage="refine", subject=name, state="failed", message=str(exc)))
        return
    damage = {item.node: item.damage for item in table.nodes}
    if bench.budget.objective in ("size", "memory"):
        gain, unit = _bytes_saved(prepared, choice.recipe), "MB"
    else:
        gain, unit = _time_saved(bench, base.built, trials, tensors)
    for proposal in propose(damage, {node: gain.get(node, 0.0) for node in damage}):
        yield _candidate(choice, proposal, base, unit)


def _bytes_saved(prepared: Prepared, recipe: Recipe) -> dict[str, float]:
    """Megabytes that each node's weights shrink by."""
    kept = recipe.weight_bits / 32
    nodes = read_model(prepared.path).nodes
    return {node.name: node.weight_bytes * (1 - kept) / 1e6 for node in nodes}


def _time_saved(
    bench: Bench, built: Built, trials: Sequence[Trial], tensors: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], str]:
    """What quantizing each node saves, and its unit; all alike where the engine cannot tell."""
    after = _times(bench, built, tensors)
    before = _times(bench, _float_form(trials, built.choice), tensors)
    if before is None or after is None:
        return dict.fromkeys(tensors, 1.0), "nodes"
    return gains_ms(before, after, list(tensors)), "ms"


def _float_form(trials: Sequence[Trial], choice: Choice) -> Built | None:
    """The same engine and execution type without quantization, if it was built."""
    wanted = Choice(recipe=Recipe(execution=choice.recipe.execution), backend=choice.backend)
    return next((t.built for t in trials if t.built and t.built.choice == wanted), None)


def _times(
    bench: Bench, built: Built | None, tensors: Mapping[str, Sequence[str]]
) -> TracedTimes | None:
    """Time of each node in an artifact; None where the engine cannot tell."""
    seen = look_inside(bench, built, runs=_PROFILED_RUNS) if built else None
    if seen is None or not seen.response["node_times"]:
        return None
    placement = [NodePlacement(**item) for item in seen.response["placement"]]
    times = [NodeTime(**item) for item in seen.response["node_times"]]
    return trace_times(tensors, placement, times)


def _candidate(choice: Choice, proposal: Proposal, base: _Base, unit: str) -> Candidate:
    ((component, _),) = base.trial.outcome.candidate.choices
    kept = Choice(recipe=choice.recipe, backend=choice.backend, kept=tuple(sorted(proposal.kept)))
    shown = ", ".join(proposal.kept[:3])
    more = f" and {len(proposal.kept) - 3} more" if proposal.kept[3:] else ""
    return Candidate(
        choices=((component, kept),),
        why=(
            f"{proposal.why}: {shown}{more}; expected to leave {proposal.damage_left:.0%} of the "
            f"error of {choice.name}, for {proposal.extra:+.3g} {unit}"
        ),
    )
