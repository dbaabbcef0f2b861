"""Structural compression in a deploy: as much removed, and factored, as the check allows and speed repays.

It starts from the best form that was found without. Units are removed before matrices are factored,
and each of both is searched by bisection over shares of the parameters, since more removed is never
closer to the original: at most 3 checks a technique. Where training has time, shares beyond what passes
healed are searched again with `distill` behind them, at most 4 checks more. A share that fails the check is
not measured. What was removed and brings no confident gain is undone: the next technique starts without it,
and the decision takes the form before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from edgesdk.bases import is_good
from edgesdk.bench import Bench, Original, Prepared, Trial
from edgesdk.clock import spell
from edgesdk.decide import Outcome, decide, sure_speed
from edgesdk.errors import RecipeError
from edgesdk.events import Event
from edgesdk.pipeline import SINGLE
from edgesdk.plan.candidate import Candidate, Choice
from edgesdk.settle import secure
from edgesdk.structural import Kind, Step, Structure, check_order
from edgesdk.train import unavailable
from edgesdk.trial import try_candidate

SHARES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
"""Percent of the parameters; below 10 nothing is noticed."""
HEALED_SHARES = 7
"""The first so many are tried without training: above 70 % it is needed."""
_TECHNIQUES: tuple[tuple[Kind, str], ...] = (
    ("prune", "units that matter least removed, the next layers fitted anew"),
    ("rank", "matrices factored where that costs least of their output"),
)


def search_structure(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    *,
    accept_undecided: bool,
) -> tuple[list[Trial], tuple[str, ...]]:
    """All trials, those with structural steps last, and how far each technique went.

    Args:
        bench: what all trials share; trains for at most `training_s` each, and not at all without.
        trials: tried without structural steps.
        baseline: the original's outcome.
        original: what everything is compared with.
        start: the graph that each backend's recipes started from.
        accept_undecided: as in the decision.
    """
    known, notes = list(trials), list[str]()
    problem = unavailable() if bench.training_s is not None else None
    if problem:
        notes.append(f"no form was trained: {problem}")
    trains = bench.training_s is not None and problem is None

    def passes(form: Callable[[int], Choice], why: str, at: int) -> bool:
        nonlocal known
        choice = form(at)
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
        return is_good(known[-1].outcome.quality, accept_undecided)

    base = _best(bench, known, baseline, accept_undecided)
    for kind, why in _TECHNIQUES:
        if not _takes(base, kind):
            notes.append(f"{kind}: not tried behind the steps of {base.form}")
            continue
        healed = 0
        if _lesson(base) is None:  # what stands on a lesson needs another
            form = partial(_with, base, kind, taught=False)
            healed = _furthest(0, HEALED_SHARES, partial(passes, form, why))
        taught = healed
        if trains:
            form = partial(_with, base, kind, taught=True)
            lesson = f"{why}, then at most {spell(bench.training_s or 0.0)} of training"
            taught = _furthest(healed, len(SHARES), partial(passes, form, lesson))
        notes.append(_told(kind, healed, taught, bench.training_s if trains else None))
        bench.listen(Event(stage="structure", subject=kind, message=notes[-1]))
        base = _best(bench, known, baseline, accept_undecided)
    bench.listen(Event(stage="structure", state="done", message=base.name))
    return known, tuple(notes)


def _furthest(low: int, high: int, passes: Callable[[int], bool]) -> int:
    """How many of the shares pass, found by bisection between as many as are known to and all."""
    while low < high:
        middle = (low + high) // 2
        if passes(middle):
            low = middle + 1
        else:
            high = middle
    return low


def _with(base: Choice, kind: Kind, at: int, *, taught: bool) -> Choice:
    """The form with one more step; a lesson comes after all others."""
    before: Structure = tuple(step for step in base.structure if step.kind != "distill")
    lesson = _lesson(base) or Step(kind="distill")
    steps = (*before, Step(kind=kind, share=SHARES[at]), *((lesson,) if taught else ()))
    return replace(base, structure=steps, kept=())


def _lesson(base: Choice) -> Step | None:
    """The step of a form that trains it."""
    return next((step for step in base.structure if step.kind == "distill"), None)


def _takes(base: Choice, kind: Kind) -> bool:
    """Whether a step may follow those of a form, of which the user may have named some."""
    try:
        check_order(_with(base, kind, 0, taught=True).structure)
    except RecipeError:
        return False
    return True


def _told(kind: Kind, healed: int, taught: int, seconds: float | None) -> str:
    """How far a technique went."""

    def reached(count: int) -> str:
        return f"{SHARES[count - 1]} % of the parameters" if count else "none of the shares"

    told = f"{kind}: {reached(healed)} passes the check healed in closed form"
    if seconds is not None:
        return f"{told}, {reached(taught)} with at most {spell(seconds)} of training"
    return told if healed == HEALED_SHARES else f"{told}; --training-time tries more with training"


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
