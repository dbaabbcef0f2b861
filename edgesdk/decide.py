"""Pick the winner for the budget, and say why each of the others lost. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from edgesdk.budget import Budget, Limit
from edgesdk.departures import ThereAndHere
from edgesdk.gate import gate_problem, too_much
from edgesdk.measure.result import Measurement
from edgesdk.placement import UnitShares
from edgesdk.plan.candidate import Candidate
from edgesdk.quality import Quality, Verdict

SAME_SPEED = 0.03
"""Speedups this close, with overlapping intervals, count as equal; quality then decides."""
_COMPARABLE, _MOST_RIVALS = 0.25, 2
"""Ratios to the float original differed by a fifth between two measurements of one text encoder."""


class Status(StrEnum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    PASSED = "passed"
    """Met everything; another one was better."""
    NOT_BETTER = "not_better"
    """Not faster (or smaller, as the objective asks) than the float original with confidence."""
    OVER_BUDGET = "over_budget"
    UNDECIDED = "undecided"
    """The samples are too few to tell whether it keeps the floors."""
    FAILED = "failed"
    """Below a quality floor."""
    NOISY = "noisy"
    """Its times could not be trusted."""
    ERROR = "error"
    """A step crashed, hung, ran out of memory or refused."""
    REFERENCE = "reference"
    """The float original where the device cannot run it: the others are compared with it."""
    NO_TIME = "no_time"
    """The time budget was used up before it was tried to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found out about one candidate; the baseline has one too.

    Attributes:
        name: as in tables; `original` for the baseline.
        error: the step that failed and its reason, or None.
        unfit: why the baseline is only compared with and cannot ship; None where it can.
        out_of_time: what the time budget did not allow, or None.
        quality, measurement: None where the candidate did not get that far.
        elsewhere: its outputs there and here, where the device has another processor.
        shares: which unit does how much of a run; None where the runtime does not tell, or nobody
            looked: before the decision that is done only for a budget with `max_fallback`.
    """

    name: str
    candidate: Candidate
    error: str | None = None
    unfit: str | None = None
    out_of_time: str | None = None
    quality: Quality | None = None
    measurement: Measurement | None = None
    elsewhere: ThereAndHere | None = None
    shares: UnitShares | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate's status and the reason for it, in a sentence."""

    name: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A limit that a candidate missed.

    Attributes:
        candidate: the one that came closest to meeting this limit among those of good quality.
        limit: the limit as the user wrote it.
        value: what it reached, in the limit's unit; of a share, 0 to 1.
        factor: value / limit, above 1; infinite where the limit is 0.
    """

    candidate: str
    limit: str
    value: float
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The winner and the reasons.

    Attributes:
        chosen: name of the winner; None when nothing meets the budget.
        judged: one entry for each outcome, in the given order.
        misses: when nothing was chosen, the nearest miss of each limit.
        headline: the decision in a sentence.
    """

    chosen: str | None
    judged: tuple[Judged, ...]
    misses: tuple[Miss, ...] = ()
    headline: str = ""


def decide(
    baseline: Outcome,
    outcomes: Sequence[Outcome],
    budget: Budget,
    *,
    accept_undecided: bool = False,
) -> Decision:
    """Pick the best candidate that keeps the floors, meets the limits and beats the baseline.

    Among the rest the objective orders: latency by speedup, size by bytes, memory by peak, quality by
    the smallest loss. Speeds that cannot be told apart count as equal, and the better quality wins.
    The float original wins when nothing beats it with confidence. A candidate that is not better than
    the original may still win when the original itself misses a limit, runs too much elsewhere, or
    cannot ship at all.

    Where nothing was timed or counted, the time that the device's compiler states stands for speed;
    where it states none, the size of the program does.
    """
    baseline_over = _over(baseline, budget)
    judged: dict[str, Judged] = {}
    eligible: list[Outcome] = []
    for outcome in outcomes:
        gate = not baseline_over and _can_ship(baseline)
        against = _against(outcome, baseline, budget, accept_undecided, gate=gate)
        if against:
            judged[outcome.name] = against
        else:
            eligible.append(outcome)
    winner = _best(eligible, budget)
    if winner is None and not baseline_over and _can_ship(baseline):
        winner = baseline
    for outcome in (baseline, *outcomes):
        if outcome.name not in judged:
            judged[outcome.name] = _compared(outcome, winner, baseline, baseline_over, budget)
    in_order = tuple(judged[outcome.name] for outcome in (baseline, *outcomes))
    if winner is None:
        misses = _nearest_misses([baseline, *outcomes], budget, accept_undecided)
        return Decision(
            chosen=None,
            judged=in_order,
            misses=misses,
            headline=_no_winner(misses, judged) + _late(outcomes),
        )
    headline = _headline(winner, baseline, budget) + _late(outcomes)
    return Decision(chosen=winner.name, judged=in_order, headline=headline)


def sure_speed(
    baseline: Outcome,
    outcomes: Sequence[Outcome],
    budget: Budget,
    *,
    accept_undecided: bool = False,
) -> float:
    """Speedups whose whole interval is below this cannot win any more.

    The lower end of the best so far, less what counts as the same speed; 0 while there is none, or
    where the budget asks for something else than speed.
    """
    decision = decide(baseline, outcomes, budget, accept_undecided=accept_undecided)
    best = next((o.measurement for o in outcomes if o.name == decision.chosen), None)
    if best is None or budget.objective != "latency":
        return 0.0
    return best.speedup.low * (1.0 - SAME_SPEED)


def contenders(
    baseline: Outcome,
    outcomes: Sequence[Outcome],
    budget: Budget,
    *,
    accept_undecided: bool = False,
) -> tuple[str, ...]:
    """The outcomes too noisy to judge that would win if the best their times allow were true."""
    found = []
    for number, outcome in enumerate(outcomes):
        measurement = outcome.measurement
        if measurement is None or measurement.stable or not _asks_for_times(budget):
            continue
        high = measurement.speedup.high
        best = replace(measurement.speedup, value=high, low=high)
        hoped = replace(outcome, measurement=replace(measurement, stable=True, speedup=best))
        others = [*outcomes[:number], hoped, *outcomes[number + 1 :]]
        decision = decide(baseline, others, budget, accept_undecided=accept_undecided)
        if decision.chosen == outcome.name:
            found.append(outcome.name)
    return tuple(found)


def finalists(
    baseline: Outcome,
    outcomes: Sequence[Outcome],
    budget: Budget,
    *,
    accept_undecided: bool = False,
) -> tuple[str, ...]:
    """The winner, and those that quality alone sets apart from it: their verdicts must be complete.

    Where speed is asked for these are as fast as the winner; where quality is, all that met the rest.
    """
    decision = decide(baseline, outcomes, budget, accept_undecided=accept_undecided)
    winner = next((outcome for outcome in outcomes if outcome.name == decision.chosen), None)
    if winner is None:
        return ()
    good = {item.name for item in decision.judged if item.status == Status.PASSED}
    rivals = [outcome for outcome in outcomes if outcome.name in good]
    if budget.objective == "latency":
        fastest = max((winner, *rivals), key=_speed)
        rivals = [outcome for outcome in rivals if _same_speed(outcome, fastest)]
    elif budget.objective != "quality":
        rivals = []
    return (winner.name, *(outcome.name for outcome in rivals))


def rivals(
    baseline: Outcome,
    outcomes: Sequence[Outcome],
    budget: Budget,
    *,
    accept_undecided: bool = False,
) -> tuple[str, ...]:
    """The winner, and at most two that are closer to the original and not surely slower, fastest first.

    Speeds over the original were measured minutes apart, in other processes; these have to be
    measured beside the winner before it wins over them. None where speed is not asked for.
    """
    decision = decide(baseline, outcomes, budget, accept_undecided=accept_undecided)
    winner = next((outcome for outcome in outcomes if outcome.name == decision.chosen), None)
    if winner is None or budget.objective != "latency":
        return ()
    if winner.measurement is None or winner.measurement.latency is None:
        return (winner.name,)  # what was not timed does not differ from minute to minute
    good = {item.name for item in decision.judged if item.status == Status.PASSED}
    near = [
        outcome
        for outcome in outcomes
        if outcome.name in good
        and _speed(outcome) >= _speed(winner) * (1.0 - _COMPARABLE)
        and not _same_speed(outcome, winner)
        and _distance(outcome) < _distance(winner)
    ]
    near.sort(key=lambda outcome: -_speed(outcome))
    return (winner.name, *(outcome.name for outcome in near[:_MOST_RIVALS]))


def fallback_problem(outcome: Outcome, budget: Budget) -> str | None:
    """Why an outcome does not keep `max_fallback`, or None where it does or none is asked for."""
    if budget.max_fallback is None:
        return None
    backend = outcome.candidate.single.backend
    return gate_problem(outcome.shares, budget.max_fallback, backend)


def limit_value(limit: Limit, measurement: Measurement) -> float:
    """The measured figure that a limit is about, in the limit's base unit."""
    if limit.quantity == "size":
        return float(measurement.artifact_bytes)
    if limit.quantity == "memory":
        return measurement.used_mib * 1024 * 1024
    return float(getattr(measurement.timed, f"{limit.statistic}_ms"))


def quality_loss(outcome: Outcome) -> float:
    """How much worse than the float original, for ordering: the worst metric, else 1 - worst cosine."""
    quality = outcome.quality
    if quality is None:
        return 0.0
    if quality.scores:
        return max(score.loss for score in quality.scores)
    return max((item.loss for item in quality.closeness), default=0.0)


def _distance(outcome: Outcome) -> tuple[float, float]:
    """The loss, then how far the outputs are from the original's: to be better than it is luck."""
    quality = outcome.quality
    apart = max((item.loss for item in quality.closeness), default=0.0) if quality else 0.0
    return round(max(quality_loss(outcome), 0.0), 4), round(apart, 4)


def _over(outcome: Outcome, budget: Budget) -> list[str]:
    """What of the budget an outcome misses, with the values it reached; limits once it is measured."""
    problem = fallback_problem(outcome, budget)
    missed = [problem] if problem else []
    if outcome.measurement is not None:
        values = [(limit, limit_value(limit, outcome.measurement)) for limit in budget.limits]
        missed += [limit.describe(value) for limit, value in values if value > limit.maximum]
    return missed


def _against(
    outcome: Outcome, baseline: Outcome, budget: Budget, accept_undecided: bool, *, gate: bool
) -> Judged | None:
    """Why an outcome cannot be chosen, or None when it can."""

    def because(status: Status, reason: str) -> Judged:
        return Judged(name=outcome.name, status=status, reason=reason)

    if outcome.out_of_time:
        return because(Status.NO_TIME, outcome.out_of_time)
    if outcome.error:
        return because(Status.ERROR, outcome.error)
    if outcome.quality is None:
        return because(Status.ERROR, "its quality was not checked")
    if outcome.quality.verdict == Verdict.FAIL:
        return because(Status.FAILED, outcome.quality.reason)
    if outcome.quality.verdict == Verdict.UNDECIDED and not accept_undecided:
        return because(Status.UNDECIDED, outcome.quality.reason)
    over = _over(outcome, budget)
    if outcome.measurement is None and over:
        return because(Status.OVER_BUDGET, "; ".join(over))
    if outcome.measurement is None:
        return because(Status.ERROR, "it was not measured")
    if not outcome.measurement.stable and _asks_for_times(budget):
        return because(Status.NOISY, "; ".join(outcome.measurement.warnings) or "unstable times")
    if over:
        return because(Status.OVER_BUDGET, "; ".join(over))
    not_better = _not_better(outcome, baseline, budget) if gate else None
    return because(Status.NOT_BETTER, not_better) if not_better else None


def _can_ship(baseline: Outcome) -> bool:
    return baseline.error is None and baseline.unfit is None


def _asks_for_times(budget: Budget) -> bool:
    sought = budget.objective not in ("size", "memory")
    return sought or any(limit.quantity == "latency" for limit in budget.limits)


def _not_better(outcome: Outcome, baseline: Outcome, budget: Budget) -> str | None:
    """Why it does not beat the original at what the objective asks, or None when it does."""
    new, old = outcome.measurement, baseline.measurement
    if new is None or old is None:
        return "there is no measurement to compare"
    if budget.objective == "size":
        if new.artifact_bytes < old.artifact_bytes:
            return None
        return f"not smaller than the float original ({new.artifact_bytes:,} bytes)"
    if budget.objective == "memory":
        if new.used_mib < old.used_mib:
            return None
        return f"peak memory {new.used_mib:.0f} MiB is not below the float original's"
    if new.speedup.low > 1.0:
        return None
    if new.latency is None:
        what = "fewer instructions" if new.instructions else "smaller"
        return f"not {what} than the float original: {new.speedup} x"
    verb = "slower than" if new.speedup.high < 1.0 else "not faster with confidence than"
    return f"{verb} the float original: {new.speedup} x"


def _order(outcome: Outcome, budget: Budget) -> float:
    """Smaller is better."""
    measurement = outcome.measurement
    if measurement is None:
        return float("inf")
    match budget.objective:
        case "size":
            return float(measurement.artifact_bytes)
        case "memory":
            return measurement.used_mib
        case "quality":
            return quality_loss(outcome)
        case _:
            return -measurement.speedup.value


def _best(eligible: Sequence[Outcome], budget: Budget) -> Outcome | None:
    if not eligible:
        return None
    best = min(eligible, key=lambda outcome: _order(outcome, budget))
    if budget.objective != "latency":
        return best
    stated = [outcome for outcome in eligible if _estimate_ms(outcome) is not None]
    if stated:
        least = min(filter(None, map(_estimate_ms, stated)))
        near = [o for o in stated if (_estimate_ms(o) or 0.0) <= least * (1.0 + SAME_SPEED)]
        return min(near, key=_distance)
    equal = [outcome for outcome in eligible if _same_speed(outcome, best)]
    return min(equal, key=lambda o: (_distance(o), -_speed(o)))


def _estimate_ms(outcome: Outcome) -> float | None:
    return outcome.measurement.estimate_ms if outcome.measurement else None


def _speed(outcome: Outcome) -> float:
    return outcome.measurement.speedup.value if outcome.measurement else 0.0


def _same_speed(outcome: Outcome, best: Outcome) -> bool:
    if outcome.measurement is None or best.measurement is None:
        return False
    near = _speed(outcome) >= _speed(best) * (1.0 - SAME_SPEED)
    return near and outcome.measurement.speedup.high >= best.measurement.speedup.low


def _compared(
    outcome: Outcome,
    winner: Outcome | None,
    baseline: Outcome,
    baseline_over: list[str],
    budget: Budget,
) -> Judged:
    """The status of an outcome that was not ruled out by itself."""
    if winner is not None and outcome.name == winner.name:
        reason = _headline(winner, baseline, budget)
        return Judged(name=outcome.name, status=Status.CHOSEN, reason=reason)
    if outcome.name == baseline.name:
        if outcome.unfit:
            return Judged(name=outcome.name, status=Status.REFERENCE, reason=outcome.unfit)
        if outcome.error:
            return Judged(name=outcome.name, status=Status.ERROR, reason=outcome.error)
        if outcome.out_of_time:
            return Judged(name=outcome.name, status=Status.NO_TIME, reason=outcome.out_of_time)
        if baseline_over:
            reason = "; ".join(baseline_over)
            return Judged(name=outcome.name, status=Status.OVER_BUDGET, reason=reason)
    reason = "met everything"
    if winner is not None:
        reason += f"; {winner.name} is {_advantage(winner, outcome, budget)}"
    return Judged(name=outcome.name, status=Status.PASSED, reason=reason)


def _advantage(winner: Outcome, other: Outcome, budget: Budget) -> str:
    new, old = winner.measurement, other.measurement
    if new is None or old is None:
        return "better"
    if budget.objective == "size":
        return f"smaller ({new.artifact_bytes / 1e6:.3g} against {old.artifact_bytes / 1e6:.3g} MB)"
    if budget.objective == "memory":
        return f"smaller in memory ({new.used_mib:.0f} against {old.used_mib:.0f} MiB)"
    if budget.objective == "quality":
        return f"closer to the original (loss {quality_loss(winner):.4f})"
    counted = new.instructions is not None
    if new.estimate_ms and old.estimate_ms:
        if old.estimate_ms <= new.estimate_ms * (1.0 + SAME_SPEED):
            return "as fast by its compiler's estimate, and closer to the original"
        return f"faster by its compiler's estimate ({new.estimate_ms:.3g} ms, not {old.estimate_ms:.3g})"
    if not counted and new.latency is None:
        if _same_speed(other, winner):
            return "about as small, and closer to the original"
        return f"smaller ({new.artifact_bytes / 1e6:.3g} against {old.artifact_bytes / 1e6:.3g} MB)"
    if _same_speed(other, winner):
        same = "about as many instructions" if counted else "as fast"
        return f"{same}, and closer to the original"
    if counted:
        return f"less work ({new.speedup.value:.2f} x against {old.speedup.value:.2f} x)"
    return f"faster ({new.speedup.value:.2f} x against {old.speedup.value:.2f} x)"


def _headline(winner: Outcome, baseline: Outcome, budget: Budget) -> str:
    if winner.name == baseline.name:
        return "nothing beats the float original with confidence; it ships as it is"
    measurement, before = winner.measurement, baseline.measurement
    if measurement is None or before is None:
        return winner.name
    speed = f"{measurement.speedup} x the speed of the float original"
    if measurement.instructions is not None:
        speed = f"{measurement.speedup} x fewer instructions than the float original"
    size = f"{before.artifact_bytes / max(measurement.artifact_bytes, 1):.1f} x smaller"
    if measurement.artifact_bytes >= before.artifact_bytes:
        size = f"{measurement.artifact_bytes / max(before.artifact_bytes, 1):.2f} x its size"
    if measurement.latency is None and measurement.instructions is None:
        program = f"a program of {measurement.artifact_bytes / 1e6:.2f} MB ({size})"
        if measurement.estimate_ms is None:
            return f"{program}; how fast it is, only the device can tell"
        return f"{measurement.estimate_ms:.3g} ms a run by its compiler's estimate, {program}"
    return f"{speed}, {size}"


def _late(outcomes: Sequence[Outcome]) -> str:
    """What a decision that the time budget forced says of itself."""
    late = sum(outcome.out_of_time is not None for outcome in outcomes)
    return f"; there was no time for {late} of {len(outcomes)} candidates" if late else ""


def _nearest_misses(
    outcomes: Sequence[Outcome], budget: Budget, accept_undecided: bool
) -> tuple[Miss, ...]:
    """For each limit that no good candidate meets together with the rest: who came closest."""
    good = [
        outcome
        for outcome in outcomes
        if outcome.measurement
        and (outcome.quality is None or outcome.quality.verdict != Verdict.FAIL)
        and (
            accept_undecided
            or outcome.quality is None
            or outcome.quality.verdict != Verdict.UNDECIDED
        )
    ]
    misses = []
    for limit in budget.limits:
        reached = [(limit_value(limit, o.measurement), o.name) for o in good if o.measurement]
        over = [(value, name) for value, name in reached if value > limit.maximum]
        if over:
            value, name = min(over)
            met_by_someone = len(over) < len(reached)
            if not met_by_someone or len(budget.limits) > 1:
                misses.append(
                    Miss(
                        candidate=name,
                        limit=limit.describe(value),
                        value=value,
                        factor=value / limit.maximum,
                    )
                )
    return (*misses, *_nearest_gate_miss(outcomes, budget))


def _nearest_gate_miss(outcomes: Sequence[Outcome], budget: Budget) -> tuple[Miss, ...]:
    """Who came closest to `max_fallback`, where nobody of good quality keeps it."""
    most = budget.max_fallback
    placed = [
        (outcome.shares.fallback, outcome.name, outcome.shares)
        for outcome in outcomes
        if outcome.shares and (outcome.quality is None or outcome.quality.verdict != Verdict.FAIL)
    ]
    if most is None or not placed or any(fallback <= most for fallback, _, _ in placed):
        return ()
    fallback, name, shares = min(placed, key=lambda item: item[:2])
    factor = fallback / most if most else math.inf
    limit = too_much(shares, most)
    return (Miss(candidate=name, limit=limit, value=fallback, factor=factor),)


def _no_winner(misses: Sequence[Miss], judged: dict[str, Judged]) -> str:
    if misses:
        nearest = "; ".join(f"{miss.limit} (closest: {miss.candidate})" for miss in misses)
        return f"no candidate meets the budget: {nearest}"
    return "no candidate could be chosen: " + "; ".join(
        f"{item.name}: {item.reason}" for item in judged.values()
    )
