"""The last steps before a decision: time again, check the winner on all rows, measure rivals beside it."""

from __future__ import annotations

from collections.abc import Sequence

from edgesdk.bench import Bench, Original, Trial
from edgesdk.checking import is_partial
from edgesdk.decide import Outcome, contenders, finalists, rivals
from edgesdk.trial import check_fully, measure_again, measure_beside


def settle(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    *,
    accept_undecided: bool,
) -> list[Trial]:
    """Until nothing changes, do what the decision still hangs on.

    What is too noisy to judge and might win is measured once more. A check that stopped early is
    completed for the winner and for those that only quality sets apart from it; where one fails then,
    another wins, and it is that one's turn. What is closer to the original than the winner, and not
    surely slower, is measured beside the winner at last.

    Args:
        bench: what all trials share.
        trials: everything that was tried.
        baseline: the original's outcome.
        original: what everything is compared with.
        accept_undecided: as in the decision.
    """
    settled, retried, compared = list(trials), set[str](), set[str]()
    while True:
        settled = secure(bench, settled, baseline, original, accept_undecided=accept_undecided)
        outcomes = [trial.outcome for trial in settled]
        noisy = contenders(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
        again = set(noisy) - retried
        retried |= again
        if again:
            settled = [
                measure_again(bench, trial, original) if trial.outcome.name in again else trial
                for trial in settled
            ]
            continue
        close = rivals(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
        beside = set(close[1:]) - compared
        if not beside:
            return settled
        compared |= {*beside, close[0]}
        winner = next(trial for trial in settled if trial.outcome.name == close[0])
        settled = [
            measure_beside(bench, trial, winner) if trial.outcome.name in beside else trial
            for trial in settled
        ]


def secure(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    *,
    accept_undecided: bool,
) -> list[Trial]:
    """Complete the check of what would win now, until the one that would is checked on all rows."""
    secured = list(trials)
    while True:
        outcomes = [trial.outcome for trial in secured]
        ahead = finalists(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
        partial = {o.name for o in outcomes if o.name in ahead and is_partial(bench, o.quality)}
        if not partial:
            return secured
        secured = [
            check_fully(bench, trial, original) if trial.outcome.name in partial else trial
            for trial in secured
        ]
