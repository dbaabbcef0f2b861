"""Mixed precision: which nodes of a quantized form stay float, found by damage and by milliseconds.

Whole-model recipes are tried first. Worth refining are the winner, those that would be as fast but
fail the check, and those that are slow for nodes that quantizing makes no faster. For each, the
damage of every node and the time that quantizing it saves (the engine's own per-node times) give one
order of nodes to spare: they stay float, or take 8 bits where the others take 4. What quantizing makes
slower is tried first, where that promises something. Then, of a form that fails the check, the culprits
are searched in that order by checks alone, and only what was found is measured. Of a form that passes,
beginnings of the order are simulated together, which takes a moment each, and the cheapest that leave
half of the error, a quarter and a tenth are tried where they still pay. What they were expected to cost
is compared with what they did, and the next are chosen by the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.bases import HOPELESSLY_SLOW, Base, find_bases, is_good
from edgesdk.bench import Bench, Original, Prepared, Trial
from edgesdk.clock import OUT_OF_TIME
from edgesdk.damages import damage_of_sets, sensitivity_of
from edgesdk.decide import SAME_SPEED, Outcome, decide, sure_speed
from edgesdk.errors import BudgetError, EdgeSdkError, SamplesError, StepFailed
from edgesdk.events import Event
from edgesdk.making import begun
from edgesdk.measure.result import Measurement
from edgesdk.plan.allocate import Rung, ladder, order_by_worth
from edgesdk.plan.candidate import Candidate
from edgesdk.plan.culprits import Culprits, find_culprits
from edgesdk.plan.damage import SensitivityTable
from edgesdk.plan.gain import without_losses
from edgesdk.plan.refined import Refined, Tried
from edgesdk.settle import secure
from edgesdk.trial import check_candidate, measure_failed, try_candidate

_WORTHWHILE = 0.02
"""Share of its time that a form must promise to lose before what makes it slow is tried alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """What can be done with a candidate, and what it has to reach.

    Attributes:
        attempt: try it to the end, beside all others.
        check: find out whether it keeps the floors, without measuring it.
        measure: the speed of one that does not.
        lead: a speedup surely below this cannot win.
        smallest: megabytes of the best so far, where the budget asks for the size; else infinite.
    """

    attempt: Callable[[Candidate], Trial]
    check: Callable[[Candidate], Trial]
    measure: Callable[[Trial], Measurement | None]
    lead: Callable[[], float]
    smallest: Callable[[], float]


def refine(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    *,
    accept_undecided: bool,
) -> tuple[list[Trial], tuple[Refined, ...]]:
    """All trials, those with some nodes spared last, and what each form was refined by.

    Args:
        bench: what all trials share.
        trials: the whole-model candidates, tried.
        baseline: the original's outcome.
        original: what everything is compared with.
        start: the graph that each backend's recipes started from.
        accept_undecided: as in the decision.
    """
    known = list(trials)

    def smallest() -> float:
        outcomes = [trial.outcome for trial in known]
        decision = decide(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
        best = next((o for o in (baseline, *outcomes) if o.name == decision.chosen), baseline)
        if best.measurement is None or bench.budget.objective != "size":
            return math.inf
        return best.measurement.artifact_bytes / 1e6

    def lead() -> float:
        outcomes = [trial.outcome for trial in known]
        best = sure_speed(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
        return max(bench.settings.hopeless, best)

    def attempt(candidate: Candidate) -> Trial:
        nonlocal known
        prepared = start[candidate.single.backend]
        trial, _ = try_candidate(bench, candidate, original, prepared, hopeless=lead())
        known = secure(
            bench, [*known, trial], baseline, original, accept_undecided=accept_undecided
        )
        return known[-1]

    def check(candidate: Candidate) -> Trial:
        prepared = start[candidate.single.backend]
        return check_candidate(bench, candidate, original, prepared)[0]

    def measure(trial: Trial) -> Measurement | None:
        return measure_failed(bench, trial, original, hopeless=lead() * HOPELESSLY_SLOW)

    ways = _Ways(attempt=attempt, check=check, measure=measure, lead=lead, smallest=smallest)
    bases = find_bases(
        bench,
        trials,
        baseline,
        start,
        lead=lead(),
        measure=measure,
        accept_undecided=accept_undecided,
    )
    told = [
        _refine_one(
            bench, base, start[base.built.choice.backend], ways, accept_undecided=accept_undecided
        )
        for base in bases
    ]
    return known, tuple(refined for refined in told if refined is not None)


def _refine_one(
    bench: Bench, base: Base, prepared: Prepared, ways: _Ways, *, accept_undecided: bool
) -> Refined | None:
    """Try what refining this form proposes; None where its nodes cannot be told apart."""
    name = base.trial.outcome.name
    bench.listen(Event(stage="refine", subject=name, state="begin"))
    tried: list[Tried] = []
    mended: Culprits | None = None
    factor = 1.0  # what extra time really was, over what it was expected to be

    def trial_of(rung: Rung, more: str = "") -> Trial:
        nonlocal factor
        candidate = _candidate(base, rung, table, more)
        tried.append(Tried(name=candidate.name, why=candidate.why, rung=rung))
        trial = ways.attempt(candidate)
        factor = _learned(base, rung, trial) or factor
        return trial

    try:
        start = begun(bench, base.built.choice, prepared)
        table = sensitivity_of(bench, base.built.choice, start)
        if not table.nodes:
            return None
        shown = f"{len(table.nodes)} nodes, damages add up to {_shown_sum(table)}"
        bench.listen(Event(stage="refine", subject=name, state="done", message=shown))
        failed, slower = base.failed, _slower(base, table)
        if slower:
            (rung,) = _rungs(bench, base, start, [slower])
            trial = trial_of(rung)
            failed = failed and not is_good(trial.outcome.quality, accept_undecided)
            measured = trial.outcome.measurement or ways.measure(trial)
            if measured is None or measured.speedup.value <= base.speedup:
                # The engine's times of nodes promised what borders took away again.
                base = replace(base, gain=without_losses(base.gain))
                slower = ()
        if failed:
            mended = _mend(bench, base, table, slower, ways, accept_undecided=accept_undecided)
            if mended and mended.keep:
                (rung,) = _rungs(bench, base, start, [(*slower, *mended.keep)])
                needed = ", none of which can be left out" if mended.minimal else ""
                trial_of(rung, f"; found in {len(mended.evaluations)} checks{needed}")
        else:
            sets = ladder(*_damage_and_gain(base, table))
            for rung in _better(_rungs(bench, base, start, sets)):
                if _pays(base, rung.extra, ways, factor):
                    trial_of(rung)
    except (BudgetError, SamplesError):
        raise  # about what the user gave
    except EdgeSdkError as exc:
        bench.listen(Event(stage="refine", subject=name, state="failed", message=str(exc)))
        if not tried:
            return None
    return Refined.of(
        name,
        table.nodes,
        base.gain,
        tried,
        unit=base.unit,
        rows=table.rows,
        speedup=base.speedup,
        mended=mended,
        spared="float" if base.built.choice.recipe.spared.mode == "float" else "8-bit",
    )


def _slower(base: Base, table: SensitivityTable) -> tuple[str, ...]:
    """What quantizing makes slower, worst first, where that is worth a try of its own."""
    if base.unit != "ms":
        return ()
    nodes = [item.node for item in table.nodes if base.gain.get(item.node, 0.0) <= 0]
    extra = sum(base.gain.get(node, 0.0) for node in nodes)
    if extra >= -base.ms * _WORTHWHILE or len(nodes) == len(table.nodes):
        return ()
    return tuple(sorted(nodes, key=lambda node: (base.gain.get(node, 0.0), node)))


def _mend(
    bench: Bench,
    base: Base,
    table: SensitivityTable,
    slower: Sequence[str],
    ways: _Ways,
    *,
    accept_undecided: bool,
) -> Culprits | None:
    """The nodes to spare beside `slower` ones so that the form passes.

    They are searched among as many as may be spared while the form can still win; None when
    that is not a single one.

    Raises:
        StepFailed: the time budget ended.
    """
    damage, gain = _damage_and_gain(base, table)
    if not slower:
        gain = without_losses(gain)
    ranked = [node for node in order_by_worth(damage, gain) if node not in slower]
    extra, affordable = sum(base.gain.get(node, 0.0) for node in slower), []
    for node in ranked[:-1]:  # with all of them it is another whole form
        extra += gain[node]
        if not _pays(base, extra, ways):
            break
        affordable.append(node)
    if not affordable:
        return None

    def passes(kept: frozenset[str]) -> bool:
        trial = ways.check(_keeping(base, (*slower, *kept), "one of the checks of a search"))
        name, late = trial.outcome.name, trial.outcome.out_of_time
        if late:
            raise StepFailed(late, kind=OUT_OF_TIME)
        good = is_good(trial.outcome.quality, accept_undecided)
        if good:
            bench.listen(Event(stage="try", subject=name, state="done", message="passes"))
        return good

    def costs(kept: tuple[str, ...]) -> bool:
        """Whether sparing these takes time that can be noticed: else more of them are only better."""
        return base.unit != "ms" or sum(gain[node] for node in kept) > SAME_SPEED * base.ms

    return find_culprits(affordable, passes, worth_shrinking=costs)


def _damage_and_gain(
    base: Base, table: SensitivityTable
) -> tuple[dict[str, float], dict[str, float]]:
    damage = {item.node: item.damage for item in table.nodes}
    return damage, {node: base.gain.get(node, 0.0) for node in damage}


def _shown_sum(table: SensitivityTable) -> str:
    added = table.additivity[0]
    return "nothing" if not added.ratio else f"{1 / added.ratio:.2g} of what all do at once"


def _better(rungs: Sequence[Rung]) -> list[Rung]:
    """Of a form that passes: the cheapest sets that leave half of the error, a quarter and a tenth."""
    found = []
    for share in (0.5, 0.25, 0.1):
        enough = [rung for rung in rungs if rung.damage_left <= share]
        if enough:
            found.append(min(enough, key=lambda rung: (rung.extra, len(rung.kept))))
    return list(dict.fromkeys(found))


def _pays(base: Base, extra: float, ways: _Ways, factor: float = 1.0) -> bool:
    """Whether the form could win with so much extra time or so many extra bytes."""
    if base.unit == "MB":
        return base.mb + extra < ways.smallest()
    if base.unit != "ms":
        return True
    added = extra * factor if extra > 0 else extra
    expected = base.speedup * base.ms / max(base.ms + added, base.ms / 4)
    return expected >= ways.lead() * (1 - SAME_SPEED)


def _learned(base: Base, rung: Rung, trial: Trial) -> float | None:
    """Extra time as measured over extra time as expected, where both can be told."""
    measured = trial.outcome.measurement
    if measured is None or base.unit != "ms" or rung.extra < base.ms * SAME_SPEED:
        return None
    extra = base.ms * (base.speedup / measured.speedup.value - 1.0)
    return min(max(extra / rung.extra, 0.0), 4.0)


def _rungs(
    bench: Bench, base: Base, prepared: Prepared, sets: Sequence[Sequence[str]]
) -> tuple[Rung, ...]:
    """What each of these sets of nodes leaves when it is spared, simulated, and what that costs."""
    if not sets:
        return ()
    whole, *left = damage_of_sets(bench, base.built.choice, prepared, [(), *sets])
    return tuple(
        Rung(
            kept=tuple(kept),
            damage_left=one / whole if whole > 0 else 0.0,
            extra=sum(base.gain.get(node, 0.0) for node in kept),
        )
        for kept, one in zip(sets, left, strict=True)
    )


def _candidate(base: Base, rung: Rung, table: SensitivityTable, more: str) -> Candidate:
    damage = {item.node: item.damage for item in table.nodes}
    shown = ", ".join(sorted(rung.kept, key=lambda node: -damage[node])[:3])
    others = f" and {len(rung.kept) - 3} more" if rung.kept[3:] else ""
    name, recipe = base.built.choice.name, base.built.choice.recipe
    stay = "stay float" if recipe.spared.mode == "float" else "take 8 bits"
    return _keeping(
        base,
        rung.kept,
        f"{shown}{others} {stay}; expected to leave {rung.damage_left:.0%} of the error of "
        f"{name}, for {rung.extra:+.3g} {base.unit}{more}",
    )


def _keeping(base: Base, kept: Sequence[str], why: str) -> Candidate:
    ((component, choice),) = base.trial.outcome.candidate.choices
    return Candidate(
        choices=((component, replace(choice, kept=tuple(sorted(kept)))),),
        why=why,
    )
