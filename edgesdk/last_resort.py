"""Quantization-aware training in a deploy: of the form that fails the check and would win if it passed.

Training takes minutes where everything else takes seconds, so it comes last, only where the user gave it
time, and for one form: what the decision would take if every quantized form that fails kept its floors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from edgesdk.backend import load_backend
from edgesdk.bases import fails_in_float
from edgesdk.bench import Bench, Original, Prepared, Trial
from edgesdk.clock import spell
from edgesdk.decide import Outcome, decide, fallback_problem, sure_speed
from edgesdk.events import Event
from edgesdk.plan.candidate import Candidate
from edgesdk.quality import Verdict
from edgesdk.settle import secure
from edgesdk.train import unavailable
from edgesdk.trial import measure_failed, try_candidate


def try_training(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    *,
    accept_undecided: bool,
) -> tuple[list[Trial], tuple[str, ...]]:
    """All trials, the trained form last where one was worth it; with them what to say of that.

    Args:
        bench: what all trials share.
        trials: everything that was tried.
        baseline: the original's outcome.
        original: what everything is compared with.
        start: the graph that each backend's recipes started from.
        accept_undecided: as in the decision.
    """
    known = list(trials)
    failed = list(_trainable(bench, known, accept_undecided))
    if bench.training_s is None or not failed:
        return known, ()
    problem = unavailable()
    if problem:
        return known, (
            f"{len(failed)} quantized forms fail the check, and none was trained: {problem}",
        )
    outcomes = [trial.outcome for trial in known]
    lead = sure_speed(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
    hopeless = max(bench.settings.hopeless, lead)
    hoped = {
        trial.outcome.name: _as_if_good(trial.outcome, bench, original, trial, hopeless)
        for trial in failed
    }
    decision = decide(
        baseline,
        [hoped.get(outcome.name, outcome) for outcome in outcomes],
        bench.budget,
        accept_undecided=accept_undecided,
    )
    if decision.chosen not in hoped:
        return known, (
            f"{len(failed)} quantized forms fail the check, and none was trained: none would win if it "
            "passed",
        )
    ((component, choice),) = hoped[decision.chosen].candidate.choices
    told = f"at most {spell(bench.training_s)} of training"
    candidate = Candidate(
        choices=((component, replace(choice, recipe=replace(choice.recipe, qat=True))),),
        why=f"{decision.chosen} would win and fails the check; {told} through its quantizers",
    )
    bench.listen(Event(stage="train", message=candidate.why))
    trial, _ = try_candidate(bench, candidate, original, start[choice.backend], hopeless=hopeless)
    return (
        secure(bench, [*known, trial], baseline, original, accept_undecided=accept_undecided),
        (),
    )


def _trainable(bench: Bench, trials: Sequence[Trial], accept_undecided: bool) -> Iterator[Trial]:
    """Quantized forms that fail the check for what quantizing does to them."""
    for trial in trials:
        quality, built = trial.outcome.quality, trial.built
        if built is None or quality is None or quality.verdict != Verdict.FAIL:
            continue
        recipe, backend = built.choice.recipe, built.choice.backend
        if recipe.qat or not recipe.can_be_trained or load_backend(backend).quantizes(recipe):
            continue
        if fails_in_float(trials, built.choice, accept_undecided):
            continue
        if not fallback_problem(trial.outcome, bench.budget):
            yield trial


def _as_if_good(
    outcome: Outcome, bench: Bench, original: Original, trial: Trial, hopeless: float
) -> Outcome:
    """The outcome of a form that fails, were it to pass: measured, with the verdict turned."""
    assert outcome.quality is not None
    return replace(
        outcome,
        measurement=measure_failed(bench, trial, original, hopeless=hopeless),
        quality=replace(outcome.quality, verdict=Verdict.PASS),
    )
