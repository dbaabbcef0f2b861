"""Mixed precision: which nodes of a quantized form stay float, found by damage and by milliseconds.

Whole-model recipes are tried first. Worth refining are the winner, those that would be as fast but
fail the check, and those that are slow for nodes that quantizing makes no faster. For each, the
damage of every node and the time that quantizing it saves (the engine's own per-node times) give one
order of nodes to keep in float. Beginnings of that order are simulated together, which takes a
moment each, and few of them are tried for real: first what quantizing makes slower, where that
promises something; then, of a form that passes, what leaves half of the error or less at about the
same speed, and of one that fails the smallest set that passes, by halving. What they were expected to
cost is compared with what they did, and the next are chosen by the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.bench import Bench, Built, Original, Prepared, Trial
from edgesdk.damages import damage_of_sets, sensitivity_of
from edgesdk.decide import SAME_SPEED, Outcome, decide, sure_speed
from edgesdk.errors import EdgeSdkError
from edgesdk.events import Event
from edgesdk.model import read_model
from edgesdk.plan.allocate import Rung, climb, ladder
from edgesdk.plan.candidate import Candidate, Choice
from edgesdk.plan.damage import SensitivityTable
from edgesdk.plan.gain import (
    HEAVY,
    TracedTimes,
    gains_ms,
    trace_times,
    with_neighbours,
    without_losses,
)
from edgesdk.plan.refined import Refined, Tried
from edgesdk.quality import Quality, Verdict
from edgesdk.recipe import Recipe
from edgesdk.settle import secure
from edgesdk.trial import (
    look_inside,
    measure_failed,
    smoothed,
    try_candidate,
)

_MOST_BASES = 3
"""Forms that are refined: each costs a sensitivity pass and a few candidates."""
_MOST_TRIED = 5
"""Candidates made from one form."""
_HOPELESSLY_SLOW = 0.5
"""Forms below this share of the best speed are not looked into."""
_WORTHWHILE = 0.02
"""Share of its time that a form must promise to lose before what makes it slow is tried alone."""
_PROFILED_RUNS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """A quantized form to be refined.

    Attributes:
        failed: it fails the check as it is.
        speedup, ms: of the whole form.
        gain: what quantizing each node saves; negative where it got slower.
        unit: of the gains.
    """

    trial: Trial
    built: Built
    failed: bool
    speedup: float
    ms: float
    gain: Mapping[str, float]
    unit: str

    @property
    def hoped(self) -> float:
        """Its speedup if all that quantizing slows down were float; itself without times."""
        if self.unit != "ms":
            return self.speedup
        lost = -sum(gain for gain in self.gain.values() if gain < 0)
        return self.speedup * self.ms / max(self.ms - lost, self.ms / 4)


def refine(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    *,
    accept_undecided: bool,
) -> tuple[list[Trial], tuple[Refined, ...]]:
    """All trials, those with some nodes kept in float last, and what each form was refined by.

    Args:
        bench: what all trials share.
        trials: the whole-model candidates, tried.
        baseline: the original's outcome.
        original: what everything is compared with.
        start: the graph that each backend's recipes started from.
        accept_undecided: as in the decision.
    """
    known = list(trials)

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

    bases = _bases(bench, trials, baseline, original, start, lead(), accept_undecided)
    told = [
        _refine_one(
            bench,
            base,
            start[base.built.choice.backend],
            attempt,
            lead,
            accept_undecided=accept_undecided,
        )
        for base in bases
    ]
    return known, tuple(refined for refined in told if refined is not None)


def _bases(
    bench: Bench,
    trials: Sequence[Trial],
    baseline: Outcome,
    original: Original,
    start: Mapping[str, Prepared],
    lead: float,
    accept_undecided: bool,
) -> list[_Base]:
    """The winner where it is quantized, and forms that could overtake it, the most hopeful first."""
    outcomes = [trial.outcome for trial in trials]
    decision = decide(baseline, outcomes, bench.budget, accept_undecided=accept_undecided)
    bases = []
    for trial in trials:
        quality, built = trial.outcome.quality, trial.built
        if built is None or quality is None or built.choice.recipe.mode == "float":
            continue
        failed = not _is_good(quality, accept_undecided)
        measured = trial.outcome.measurement
        if measured is None:
            measured = measure_failed(bench, trial, original, hopeless=lead * _HOPELESSLY_SLOW)
        if measured is None or measured.speedup.high < lead * _HOPELESSLY_SLOW:
            continue
        gain, unit = _gains(bench, built, trials, start[built.choice.backend])
        base = _Base(
            trial=trial,
            built=built,
            failed=failed,
            speedup=measured.speedup.value,
            ms=measured.latency.p50_ms,
            gain=gain,
            unit=unit,
        )
        if trial.outcome.name == decision.chosen or base.hoped >= lead:
            bases.append(base)
    bases.sort(key=lambda base: (base.trial.outcome.name != decision.chosen, -base.hoped))
    return bases[:_MOST_BASES]


def _refine_one(
    bench: Bench,
    base: _Base,
    prepared: Prepared,
    attempt: Callable[[Candidate], Trial],
    lead: Callable[[], float],
    *,
    accept_undecided: bool,
) -> Refined | None:
    """Try what refining this form proposes; None where its nodes cannot be told apart."""
    name = base.trial.outcome.name
    bench.listen(Event(stage="refine", subject=name, state="begin"))
    try:
        start = smoothed(bench, base.built.choice.recipe, prepared)
        table = sensitivity_of(bench, base.built.choice, start)
    except EdgeSdkError as exc:
        bench.listen(Event(stage="refine", subject=name, state="failed", message=str(exc)))
        return None
    shown = f"{len(table.nodes)} nodes, damages add up to {_shown_sum(table)}"
    bench.listen(Event(stage="refine", subject=name, state="done", message=shown))
    tried: list[Tried] = []
    factor = 1.0  # what extra time really was, over what it was expected to be

    def pays(rung: Rung) -> bool:
        return base.unit != "ms" or _expected(base, rung, factor) >= lead() * (1 - SAME_SPEED)

    def trial_of(rung: Rung) -> Trial:
        nonlocal factor
        candidate = _candidate(base, rung, table)
        tried.append(Tried(name=candidate.name, why=candidate.why, rung=rung))
        trial = attempt(candidate)
        factor = _learned(base, rung, trial) or factor
        return trial

    def passes(rung: Rung) -> bool:
        return _is_good(trial_of(rung).outcome.quality, accept_undecided)

    rungs = _rungs(bench, base, table, start)
    if rungs and base.unit == "ms" and rungs[0].extra < -base.ms * _WORTHWHILE:
        measured = trial_of(rungs[0]).outcome.measurement
        if measured is None or measured.speedup.value <= base.speedup:
            # The engine's times of nodes promised what borders took away again.
            base = replace(base, gain=without_losses(base.gain))
            rungs = _rungs(bench, base, table, start)
    if base.failed:
        climb(rungs, passes, pays, most=_MOST_TRIED)
    else:
        for rung in _better(base, rungs):
            if pays(rung):
                passes(rung)
    if not table.nodes:
        return None
    return Refined.of(
        name,
        table.nodes,
        base.gain,
        tried,
        unit=base.unit,
        rows=table.rows,
        speedup=base.speedup,
    )


def _is_good(quality: Quality | None, accept_undecided: bool) -> bool:
    if quality is None:
        return False
    return quality.verdict == Verdict.PASS or (
        accept_undecided and quality.verdict == Verdict.UNDECIDED
    )


def _shown_sum(table: SensitivityTable) -> str:
    added = table.additivity[0]
    return "nothing" if not added.ratio else f"{1 / added.ratio:.2g} of what all do at once"


def _better(base: _Base, rungs: Sequence[Rung]) -> list[Rung]:
    """Of a form that passes: the cheapest sets that leave half of the error, a quarter and a tenth."""
    found = []
    for share in (0.5, 0.25, 0.1):
        enough = [rung for rung in rungs if rung.damage_left <= share]
        if enough:
            found.append(min(enough, key=lambda rung: (rung.extra, len(rung.kept))))
    return list(dict.fromkeys(found))


def _expected(base: _Base, rung: Rung, factor: float) -> float:
    extra = rung.extra * (factor if rung.extra > 0 else 1.0)
    return base.speedup * base.ms / max(base.ms + extra, base.ms / 4)


def _learned(base: _Base, rung: Rung, trial: Trial) -> float | None:
    """Extra time as measured over extra time as expected, where both can be told."""
    measured = trial.outcome.measurement
    if measured is None or base.unit != "ms" or rung.extra < base.ms * SAME_SPEED:
        return None
    extra = base.ms * (base.speedup / measured.speedup.value - 1.0)
    return min(max(extra / rung.extra, 0.0), 4.0)


def _rungs(
    bench: Bench, base: _Base, table: SensitivityTable, prepared: Prepared
) -> tuple[Rung, ...]:
    """Beginnings of the order of nodes, with what they leave together; none where it is not seen."""
    damage = {item.node: item.damage for item in table.nodes}
    sets = ladder(damage, {node: base.gain.get(node, 0.0) for node in damage})
    if not sets:
        return ()
    try:
        whole, *left = damage_of_sets(bench, base.built.choice, prepared, [(), *sets])
    except EdgeSdkError as exc:
        name = base.trial.outcome.name
        bench.listen(Event(stage="refine", subject=name, state="failed", message=str(exc)))
        return ()
    return tuple(
        Rung(
            kept=kept,
            damage_left=one / whole if whole > 0 else 0.0,
            extra=sum(base.gain.get(node, 0.0) for node in kept),
        )
        for kept, one in zip(sets, left, strict=True)
    )


def _gains(
    bench: Bench, built: Built, trials: Sequence[Trial], prepared: Prepared
) -> tuple[dict[str, float], str]:
    """What quantizing each node saves, and in which unit; one a node where the engine cannot tell."""
    nodes = read_model(prepared.path).nodes
    recipe = built.choice.recipe
    if bench.budget.objective in ("size", "memory"):
        left = recipe.weight_bits / 32
        return {node.name: node.weight_bytes * (1 - left) / 1e6 for node in nodes}, "MB"
    heavy = {node.name: node.outputs for node in nodes if node.op in HEAVY}
    after = _times(bench, built, heavy)
    before = _times(bench, _float_form(trials, built.choice), heavy)
    names = [node.name for node in nodes]
    if before is None or after is None:
        return dict.fromkeys(names, 1.0), "nodes"
    return with_neighbours(gains_ms(before, after, names), nodes), "ms"


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


def _candidate(base: _Base, rung: Rung, table: SensitivityTable) -> Candidate:
    ((component, choice),) = base.trial.outcome.candidate.choices
    damage = {item.node: item.damage for item in table.nodes}
    shown = ", ".join(sorted(rung.kept, key=lambda node: -damage[node])[:3])
    more = f" and {len(rung.kept) - 3} more" if rung.kept[3:] else ""
    return Candidate(
        choices=((component, replace(choice, kept=tuple(sorted(rung.kept)))),),
        why=(
            f"{shown}{more} stay float; expected to leave {rung.damage_left:.0%} of the error of "
            f"{choice.name}, for {rung.extra:+.3g} {base.unit}"
        ),
    )
