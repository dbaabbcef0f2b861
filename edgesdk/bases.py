"""Quantized forms that are worth refining: the winner, and what could overtake it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.backend import load_backend
from edgesdk.bench import Bench, Built, Prepared, Trial
from edgesdk.decide import Outcome, decide, fallback_problem
from edgesdk.gains import node_gains
from edgesdk.measure.result import Measurement
from edgesdk.plan.candidate import Choice
from edgesdk.quality import Quality, Verdict
from edgesdk.recipe import Recipe

HOPELESSLY_SLOW = 0.5
"""Forms below this share of the best speed are not looked into."""
_MOST = 3
"""Forms that are refined: each costs a sensitivity pass and a few candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A quantized form to be refined.

    Attributes:
        failed: it fails the check as it is.
        speedup, ms, mb: of the whole form.
        gain: what quantizing each node saves; negative where it got slower.
        unit: of the gains.
    """

    trial: Trial
    built: Built
    failed: bool
    speedup: float
    ms: float
    mb: float
    gain: Mapping[str, float]
    unit: str

    @property
    def hoped(self) -> float:
        """Its speedup if all that quantizing slows down were float; itself without times."""
        if self.unit != "ms":
            return self.speedup
        lost = -sum(gain for gain in self.gain.values() if gain < 0)
        return self.speedup * self.ms / max(self.ms - lost, self.ms / 4)


def find_bases(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    start: Mapping[str, Prepared],
    *,
    lead: float,
    measure: Callable[[Trial], Measurement | None],
    accept_undecided: bool,
) -> list[Base]:
    """The winner where it is quantized, and forms that could overtake it, the most hopeful first.

    Args:
        bench: what all trials share.
        trials: the whole-model candidates, tried.
        baseline: the original's outcome.
        start: the graph that each backend's recipes started from.
        lead: a speedup surely below this cannot win.
        measure: the speed of one that fails its check.
        accept_undecided: as in the decision.
    """
    outcomes = [trial.outcome for trial in trials]
    decision = decide(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
    bases = []
    for trial in trials:
        quality, built = trial.outcome.quality, trial.built
        if built is None or quality is None or built.choice.recipe.mode == "float":
            continue
        if built.choice.recipe.qat:
            continue  # each set of nodes would be a training
        if load_backend(built.choice.backend).quantizes(built.choice.recipe):
            continue  # nodes are spared in ONNX, and this engine's integers are not there
        if fails_in_float(trials, built.choice, accept_undecided):
            continue  # what it computes wrongly is no matter of precision
        if fallback_problem(trial.outcome, bench.budget):
            continue  # nor is where it runs
        measured = trial.outcome.measurement or measure(trial)
        if measured is None or measured.speedup.high < lead * HOPELESSLY_SLOW:
            continue
        gain, unit = node_gains(bench, built, trials, start[built.choice.backend])
        base = Base(
            trial=trial,
            built=built,
            failed=not is_good(quality, accept_undecided),
            speedup=measured.speedup.value,
            ms=measured.timed.p50_ms,
            mb=measured.artifact_bytes / 1e6,
            gain=gain,
            unit=unit,
        )
        if trial.outcome.name == decision.chosen or base.hoped >= lead:
            bases.append(base)
    bases.sort(key=lambda base: (base.trial.outcome.name != decision.chosen, -base.hoped))
    return bases[:_MOST]


def is_good(quality: Quality | None, accept_undecided: bool) -> bool:
    """Whether a form may be chosen as it is."""
    if quality is None:
        return False
    return quality.verdict == Verdict.PASS or (
        accept_undecided and quality.verdict == Verdict.UNDECIDED
    )


def fails_in_float(trials: Sequence[Trial], choice: Choice, accept_undecided: bool) -> bool:
    """Whether the same engine was tried with all nodes in float, and that is not good either."""
    wanted = replace(choice, recipe=Recipe(execution=choice.recipe.execution), kept=())
    tried = (trial.outcome for trial in trials if trial.outcome.candidate.single == wanted)
    return any(one.quality and not is_good(one.quality, accept_undecided) for one in tried)
