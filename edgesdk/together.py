"""Trying the next candidates: one where there is one device, all at once where there are several.

On several devices nobody knows yet what the best of the others reaches, so more is measured as closely
as it might be needed; what is decided from it is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgesdk.bench import Bench, Original, Prepared, Trial
from edgesdk.events import Event, Listener
from edgesdk.lanes import side_by_side
from edgesdk.measure.result import Measurement
from edgesdk.plan.candidate import Candidate
from edgesdk.trial import check_fully, try_candidate

Tried = tuple[Trial, Measurement | None]
"""What `try_candidate` tells."""


def try_next(
    bench: Bench,
    candidates: Sequence[Candidate],
    original: Original,
    start: Mapping[str, Prepared],
    *,
    hopeless: float,
) -> dict[str, Tried]:
    """The first candidate tried, by its name; with it all others where the place has lanes for them.

    Args:
        bench: what the trials share; with several lanes its listener is called from several threads,
            by one at a time.
        candidates: those still to be tried, at least one.
        original: what they are compared with.
        start: the graph to start from, for each backend.
        hopeless: a speedup surely below this is not measured any closer.

    Raises:
        BudgetError, SamplesError: as `try_candidate`.
    """
    if bench.device.lanes == 1:
        first = candidates[0]
        prepared = start[first.single.backend]
        return {first.name: try_candidate(bench, first, original, prepared, hopeless=hopeless)}
    shared = replace(bench, listen=one_at_a_time(bench.listen))

    def tried(candidate: Candidate) -> Tried:
        prepared = start[candidate.single.backend]
        trial, beside = try_candidate(shared, candidate, original, prepared, hopeless=hopeless)
        if bench.workshop.clock.budget_s is not None and _may_win(trial):
            # The time must not end with a leader whose check is not complete.
            trial = check_fully(shared, trial, original)
        return trial, beside

    # One more than there are devices: what is made here meanwhile keeps none of them waiting.
    found: dict[str, Tried] = {}
    for number, result in enumerate(side_by_side(tried, candidates, bench.device.lanes + 1)):
        found[candidates[number].name] = result
        shared.listen(Event(stage="try", state="begin", done=len(found), total=len(candidates)))
    return found


def _may_win(trial: Trial) -> bool:
    measured = trial.outcome.measurement
    return measured is not None and measured.speedup.high > 1.0


def one_at_a_time(listen: Listener) -> Listener:
    """A listener for several threads."""
    lock = threading.Lock()

    def heard(event: Event) -> None:
        with lock:
            listen(event)

    return heard
