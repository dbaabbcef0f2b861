"""Structural compression in a deploy: as much removed, and factored, as the check allows and speed repays.

It starts from the best form that was found without. Units are removed before matrices are factored,
and each of both is searched by bisection over shares of the parameters, since more removed is never
closer to the original: at most 3 checks a technique. A share that fails the check is not measured.
What was removed and brings no confident gain is undone: the next technique starts without it, and the
decision takes the form before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgesdk.bases import is_good
from edgesdk.bench import Bench, Original, Prepared, Trial
from edgesdk.decide import Outcome, decide, sure_speed
from edgesdk.events import Event
from edgesdk.pipeline import SINGLE
from edgesdk.plan.candidate import Candidate, Choice
from edgesdk.settle import secure
from edgesdk.structural import Kind, Step
from edgesdk.trial import try_candidate

SHARES = (10, 20, 30, 40, 50, 60, 70)
"""Percent of the parameters; below 10 nothing is noticed, above 70 training is needed."""
_TECHNIQUES: tuple[tuple[Kind, str], ...] = (
    ("prune", "units that matter least removed, the next layers fitted anew"),
    ("rank", "matrices factored where that costs least of their output"),
)


def shrink(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    *,
    accept_undecided: bool,
) -> list[Trial]:
    """All trials, those with structural steps last.

    Args:
        bench: what all trials share.
        trials: tried without structural steps.
        baseline: the original's outcome.
        original: what everything is compared with.
        start: the graph that each backend's recipes started from.
        accept_undecided: as in the decision.
    """
    known = list(trials)
    base = _best(bench, known, baseline, accept_undecided)
    for kind, why in _TECHNIQUES:
        low, high = 0, len(SHARES)
        while low < high:
            middle = (low + high) // 2
            structure = (*base.structure, Step(kind=kind, share=SHARES[middle]))
            choice = replace(base, structure=structure, kept=())
            lead = sure_speed(
                baseline,
                [trial.outcome for trial in known],
                bench.budget,
                accept_undecided=accept_undecided,
            )
            trial, _ = try_candidate(
                bench,
                Candidate(choices=((SINGLE, choice),), why=why),
                original,
                start[choice.backend],
                hopeless=max(bench.settings.hopeless, lead),
            )
            known = secure(
                bench, [*known, trial], baseline, original, accept_undecided=accept_undecided
            )
            if is_good(known[-1].outcome.quality, accept_undecided):
                low = middle + 1
            else:
                high = middle
        base = _best(bench, known, baseline, accept_undecided)
    bench.listen(Event(stage="shrink", state="done", message=base.name))
    return known


def _best(
    bench: Bench, trials: Sequence[Trial], baseline: Outcome, accept_undecided: bool
) -> Choice:
    """What would be chosen now; the float form on the original's engine where that is the original."""
    decision = decide(
        baseline,
        [trial.outcome for trial in trials],
        bench.budget,
        accept_undecided=accept_undecided,
    )
    found = (trial.outcome.candidate for trial in trials)
    chosen = next((item for item in found if item.name == decision.chosen), baseline.candidate)
    return chosen.single
