"""Combinations of forms: which are tried, each run end to end, and what is taken back where one fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.bench import Built
from edgesdk.budget import Budget
from edgesdk.decide import Outcome
from edgesdk.errors import EdgeSdkError, StepFailed
from edgesdk.events import Event
from edgesdk.joint.allocate import Asked, Option, allocate
from edgesdk.joint.explore import Explored, Form
from edgesdk.joint.whole import Judged, Whole
from edgesdk.measure.result import Measurement
from edgesdk.measuring import measure_pair
from edgesdk.pipeline_samples import Part, observe
from edgesdk.plan.candidate import ORIGINAL, Candidate
from edgesdk.quality import Verdict
from edgesdk.trial import check_candidate, open_original
from edgesdk.wiring import Wiring, reads

ROUNDS = 4
"""Combinations of the joint plan that are run end to end, at most."""

JOINT, UNIFORM, ALONE = "joint", "uniform", "each-alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One form for each component, run end to end.

    Attributes:
        name: `joint`, `joint-2`, `uniform`, `each-alone`.
        forms: of each component, in pipeline order.
        parts: their artifacts; the later ones calibrated on what the earlier ones give, where that was done.
        built: the pipeline of these; None where it could not be put together.
        judged: its quality in each variant of the inputs; None where it was not run.
        outcome: for the decision.
        expected: share of the floor that is used up most, as the damages of single forms add up.
        notes: what happened on the way.
    """

    name: str
    forms: Mapping[str, Form]
    outcome: Outcome
    parts: Mapping[str, Built]
    built: Built | None = None
    judged: Judged | None = None
    expected: float | None = None
    notes: tuple[str, ...] = ()


def single_damages(whole: Whole, explored: Sequence[Explored]) -> dict[str, list[Option]]:
    """What each form worth it does to the pipeline's outputs, by itself: the options to choose among."""
    bench = whole.bench
    total = sum(len(item.worth) for item in explored)
    done = 0
    options: dict[str, list[Option]] = {}
    for item in explored:
        original = item.forms[ORIGINAL]
        options[item.name] = [Option(name=ORIGINAL, ms=original.ms, bytes=original.bytes)]
        for form in item.worth:
            subject = f"{item.name} {form.name}"
            bench.listen(Event(stage="damage", subject=subject, state="begin"))
            done += 1
            try:
                judged = whole.judged(whole.assembled({item.name: form.built}))
            except StepFailed as exc:
                bench.listen(
                    Event(stage="damage", subject=subject, state="failed", message=str(exc))
                )
                continue
            shares = whole.damages(judged)
            option = Option(name=form.name, ms=form.ms, bytes=form.bytes, damages=shares)
            options[item.name].append(option)
            bench.listen(
                Event(
                    stage="damage",
                    subject=subject,
                    state="done",
                    message=_told(option),
                    cached=judged.cached,
                    done=done,
                    total=total,
                )
            )
    return options


def _told(option: Option) -> str:
    if not option.damages:
        return "no floor is touched"
    worst = max(option.damages, key=lambda key: option.damages[key])
    share = option.damages[worst]
    return f"breaks {worst}" if share == float("inf") else f"{share:.0%} of {worst}"


def asked_of(budget: Budget) -> Asked:
    """The limits that sums over components can be compared with; memory is measured end to end only."""
    times = [limit.maximum for limit in budget.limits if limit.quantity == "latency"]
    sizes = [limit.maximum for limit in budget.limits if limit.quantity == "size"]
    return Asked(
        objective=budget.objective,
        most_ms=min(times, default=None),
        most_bytes=min(sizes, default=None),
    )


def joint_plan(
    whole: Whole, explored: Sequence[Explored], options: Mapping[str, Sequence[Option]]
) -> list[Combination]:
    """The best combination by what single forms cost; where it fails, less of it, in a few rounds."""
    asked = asked_of(whole.bench.budget)
    left = {name: list(own) for name, own in options.items()}
    by_name = {item.name: item for item in explored}
    tried: list[Combination] = []
    notes: tuple[str, ...] = ()
    for number in range(1, ROUNDS + 1):
        taken = allocate(left, asked)
        if taken is None:
            taken = allocate(left, replace(asked, most_ms=None, most_bytes=None))
            notes += ("no combination is expected to keep the limits; this one comes closest",)
        if taken is None or all(option.name == ORIGINAL for option in taken.values()):
            break
        forms = {name: by_name[name].forms[option.name] for name, option in taken.items()}
        name = JOINT if number == 1 else f"{JOINT}-{number}"
        done = run_combination(
            whole, explored, name, forms, expected=_expected(taken), notes=notes, recalibrate=True
        )
        tried.append(done)
        problem = _problem(done, asked)
        if problem is None:
            break
        back = _to_take_back(taken, left)
        left[back] = [option for option in left[back] if option.name != taken[back].name]
        notes = (f"{back} no longer as {taken[back].name}, because {name} {problem}",)
        whole.bench.listen(Event(stage="combine", subject=name, message=notes[0]))
    return tried


def _expected(taken: Mapping[str, Option]) -> float:
    floors = {key for option in taken.values() for key in option.damages}
    sums = [sum(o.damages.get(key, 0.0) for o in taken.values()) for key in floors]
    return max(sums, default=0.0)


def _problem(done: Combination, asked: Asked) -> str | None:
    """Why a combination cannot be taken, or brings nothing."""
    outcome = done.outcome
    if outcome.error:
        return f"cannot be run: {outcome.error}"
    if outcome.quality is not None and outcome.quality.verdict != Verdict.PASS:
        return f"comes to {outcome.quality.verdict}: {outcome.quality.reason}"
    measured = outcome.measurement
    if measured and asked.objective == "latency" and measured.speedup.low <= 1.0:
        return f"brings nothing with confidence: {measured.speedup} x"
    return None


def _to_take_back(taken: Mapping[str, Option], left: Mapping[str, Sequence[Option]]) -> str:
    """The component whose form does the most damage for what it brings."""

    def ratio(name: str) -> float:
        option = taken[name]
        original = next(item for item in left[name] if item.name == ORIGINAL)
        brings = max(1.0 - option.ms / original.ms, 1.0 - option.bytes / original.bytes, 1e-9)
        return option.worst / brings

    return max((name for name in taken if taken[name].name != ORIGINAL), key=ratio)


def run_combination(
    whole: Whole,
    explored: Sequence[Explored],
    name: str,
    forms: Mapping[str, Form],
    *,
    recalibrate: bool,
    expected: float | None = None,
    notes: tuple[str, ...] = (),
) -> Combination:
    """Check a combination on all rows of every variant, and measure it beside the float pipeline.

    Args:
        whole: the pipeline on its bench.
        explored: its components.
        name: what it is called.
        forms: of each component.
        recalibrate: make calibrated forms again, on what the compressed components before them give.
        expected: as `Combination.expected`.
        notes: as `Combination.notes`.
    """
    bench = whole.bench
    choices = tuple((item.name, forms[item.name].candidate.single) for item in explored)
    outcome = Outcome(name=name, candidate=Candidate(choices=choices))
    done = Combination(
        name=name, forms=dict(forms), outcome=outcome, parts={}, expected=expected, notes=notes
    )
    stage = "compress"
    try:
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        parts = {item: form.built for item, form in forms.items()}
        if recalibrate:
            parts, told = _recalibrated(whole, explored, forms)
            done = replace(done, notes=(*done.notes, *told))
        built = whole.assembled(parts)
        done = replace(done, parts=parts, built=built)
        stage = "check"
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        judged = whole.judged(built, fully=True)
        quality = judged.worst
        done = replace(done, judged=judged, outcome=replace(done.outcome, quality=quality))
        if quality.verdict == Verdict.FAIL:
            bench.listen(_ended(name, f"{quality.verdict}: {quality.reason}", failed=True))
            return done
        stage = "measure"
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        measured, cached = _measured(whole, built)
    except EdgeSdkError as exc:
        bench.listen(_ended(name, f"{stage}: {exc}", failed=True))
        return replace(done, outcome=replace(done.outcome, error=f"{stage}: {exc}"))
    size = f"{measured.artifact_bytes / 1e6:.1f} MB"
    bench.listen(_ended(name, f"{quality.verdict}, {measured.speedup} x, {size}", cached=cached))
    return replace(done, outcome=replace(done.outcome, measurement=measured))


def _measured(whole: Whole, built: Built) -> tuple[Measurement, bool]:
    """Beside the float pipeline; once more where that was too noisy to tell."""
    _, after, cached = measure_pair(whole.bench, whole.built, built)
    if not after.stable:
        _, after, cached = measure_pair(whole.bench, whole.built, built, attempt=2)
    return after, cached


def _recalibrated(
    whole: Whole, explored: Sequence[Explored], forms: Mapping[str, Form]
) -> tuple[dict[str, Built], tuple[str, ...]]:
    """The artifacts, with calibrated ones made on what the compressed ones before them give."""
    wiring = whole.pipeline.wiring
    parts = {name: whole.parts[name] for name in forms}
    notes: list[str] = []
    for item in explored:
        form = forms[item.name]
        before = {
            name
            for name in ancestors(wiring, item.name)
            if name in forms and forms[name].name != ORIGINAL
        }
        if not (form.candidate.single.needs_calibration and before):
            parts[item.name] = form.built
            continue
        seen = observe(
            whole.bench.workshop,
            whole.pipeline,
            whole.samples,
            parts={name: part_of(built) for name, built in {**whole.parts, **parts}.items()},
            threads=whole.bench.threads,
        )
        given = seen.component(item.name)
        shapes = item.bench.samples.uniform_shapes
        bench = replace(item.bench, samples=replace(given, uniform_shapes=shapes))
        original = open_original(bench, item.plan)
        trial, _ = check_candidate(bench, form.candidate, original, item.prepared)
        if trial.built is None or trial.outcome.error:
            parts[item.name] = form.built
            notes.append(
                f"{item.name} stays calibrated on float outputs: {trial.outcome.error or 'not made'}"
            )
            continue
        parts[item.name] = trial.built
        notes.append(f"{item.name} calibrated on what {', '.join(sorted(before))} give")
    return parts, tuple(notes)


def ancestors(wiring: Wiring, name: str) -> set[str]:
    """The components and steps whose outputs reach a stage."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        stage = wiring.stage(waiting.pop())
        for _, origin in stage.inputs:
            for source in reads(origin):
                if source.component is not None and source.component not in found:
                    found.add(source.component)
                    waiting.append(source.component)
    return found


def part_of(built: Built) -> Part:
    """What `observe` runs a component by."""
    return Part(
        backend=built.choice.backend,
        artifact=built.converted.path,
        execution=built.choice.recipe.execution,
        key=built.converted.key,
    )


def _ended(name: str, message: str, *, failed: bool = False, cached: bool = False) -> Event:
    state = "failed" if failed else "done"
    return Event(stage="try", subject=name, state=state, message=message, cached=cached)
