"""The pure parts of joint planning: allocation, damages, floors of modalities."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.budget import parse_floor
from edgesdk.errors import BudgetError
from edgesdk.evidence import Evidence
from edgesdk.floors import FloorResult, Verdict
from edgesdk.joint.allocate import Asked, Option, allocate, undominated
from edgesdk.joint.damage import damages
from edgesdk.joint.floors import output_modalities, pipeline_floors
from edgesdk.quality import Quality, Score
from edgesdk.signature import TensorInfo
from edgesdk.wiring import InputPort, OutputPort, Stage, TensorSource, Wiring

FLOORS = ("a", "b")
shares = st.one_of(st.integers(0, 12).map(lambda n: n / 10), st.just(math.inf))
options = st.builds(
    lambda ms, size, worn: Option(name="", ms=float(ms), bytes=size, damages=worn),
    st.integers(0, 8),
    st.integers(0, 8),
    st.dictionaries(st.sampled_from(FLOORS), shares),
)
components = st.dictionaries(
    st.sampled_from(["image", "text", "fusion"]), st.lists(options, min_size=1, max_size=4)
)
asked = st.builds(
    lambda objective, ms, size: Asked(objective=objective, most_ms=ms, most_bytes=size),
    st.sampled_from(["latency", "size", "memory", "quality"]),
    st.none() | st.integers(0, 20).map(float),
    st.none() | st.integers(0, 20).map(float),
)


def totals(taken: tuple[Option, ...]) -> tuple[float, int, float]:
    worst = max((sum(o.damages.get(key, 0.0) for o in taken) for key in FLOORS), default=0.0)
    return sum(o.ms for o in taken), sum(o.bytes for o in taken), worst


def cost(taken: tuple[Option, ...], wanted: Asked) -> float:
    ms, size, worst = totals(taken)
    return {"latency": ms, "quality": worst}.get(wanted.objective, float(size))


@given(components=components, wanted=asked)
def test_the_allocation_is_the_best_of_all_that_keep_what_is_asked(
    components: dict[str, list[Option]], wanted: Asked
) -> None:
    legal = []
    for taken in itertools.product(*components.values()):
        ms, size, worst = totals(taken)
        if (
            worst <= wanted.allowance
            and (wanted.most_ms is None or ms <= wanted.most_ms)
            and (wanted.most_bytes is None or size <= wanted.most_bytes)
        ):
            legal.append(taken)
    found = allocate(components, wanted)
    assert (found is None) == (not legal)
    if found is not None:
        taken = tuple(found[name] for name in components)
        assert taken in legal
        least = min(cost(other, wanted) for other in legal)
        assert cost(taken, wanted) == pytest.approx(least)


@given(own=st.lists(options, max_size=6))
def test_what_is_dropped_is_beaten_by_what_stays(own: list[Option]) -> None:
    kept = undominated(own)
    assert bool(kept) == bool(own)
    for option in own:
        assert any(
            other.ms <= option.ms
            and other.bytes <= option.bytes
            and all(other.damages.get(k, 0.0) <= option.damages.get(k, 0.0) for k in FLOORS)
            for other in kept
        )


def judged(text: str, value: float | None, verdict: Verdict = Verdict.PASS) -> dict[str, float]:
    (floor,) = parse_floor(text)
    result = FloorResult(
        floor=text,
        subject="it",
        verdict=verdict,
        value=value,
        bound=floor.bound,
        low=None,
        high=None,
        rows=9,
        samples_needed=None,
        reason="",
    )
    score = Score(
        metric="it",
        higher_is_better=True,
        reference=0.9,
        candidate=0.85,
        change=-0.05,
        low=None,
        high=None,
        rows=9,
    )
    quality = Quality(
        rows=9,
        verdict=verdict,
        reason="",
        evidence=Evidence.MEASURED,
        closeness=(),
        scores=(score,),
        floors=(result,),
    )
    return damages(quality, (floor,))


@pytest.mark.parametrize(
    ("text", "value", "share"),
    [
        ("y.cosine=0.99", 0.995, 0.5),
        ("y.agreement=90%", 0.98, 0.2),
        ("y.sqnr=30dB", 40.0, 0.1),
        ("y.max_error=0.2", 0.05, 0.25),
        ("top1=-1%", -0.0025, 0.25),
        ("top1=-0.02", 0.01, 0.0),
        ("top1=0.8", 0.85, 0.5),
        ("top1=-1%", None, 0.0),
    ],
)
def test_a_damage_is_a_share_of_what_a_floor_allows(
    text: str, value: float | None, share: float
) -> None:
    assert judged(text, value) == {"it": pytest.approx(share)}


def test_a_broken_floor_leaves_nothing() -> None:
    assert judged("y.cosine=0.99", 0.9, Verdict.FAIL) == {"it": math.inf}


def tensor(name: str, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(name=name, dtype=dtype, shape=(None, 4))


def wire(component: str | None, name: str) -> TensorSource:
    return TensorSource(component=component, tensor=name)


WIRING = Wiring(
    inputs=(
        InputPort(info=tensor("pixels"), modality="image"),
        InputPort(info=tensor("ids", "int64"), modality="text"),
    ),
    stages=(
        Stage(
            name="see",
            inputs=((tensor("x"), wire(None, "pixels")),),
            outputs=(tensor("seen"), tensor("kind", "int64")),
        ),
        Stage(
            name="fuse",
            inputs=((tensor("a"), wire("see", "seen")), (tensor("b", "int64"), wire(None, "ids"))),
            outputs=(tensor("answer"),),
        ),
    ),
    outputs=(
        OutputPort(info=tensor("answer"), source=wire("fuse", "answer")),
        OutputPort(info=tensor("kind", "int64"), source=wire("see", "kind")),
    ),
)


def floors(*texts: str, metrics: tuple[str, ...] = ()) -> dict[str, float]:
    return {floor.text: floor.bound for floor in pipeline_floors(texts, WIRING, metrics)}


def test_a_modality_stands_for_the_outputs_that_follow_from_it() -> None:
    assert output_modalities(WIRING) == {"answer": ("image", "text"), "kind": ("image",)}
    assert floors("image=-2%") == {"answer.cosine=0.98": 0.98, "kind.agreement=0.98": 0.98}
    assert floors("text=-2%") == {"answer.cosine=0.98": 0.98, "kind.agreement=0.99": 0.99}
    both = floors("image=-2%,text=-0.5%")
    assert both == {"answer.cosine=0.995": 0.995, "kind.agreement=0.98": 0.98}
    assert floors("text.sqnr=30dB") == {"answer.sqnr=30dB": 30.0, "kind.agreement=0.99": 0.99}


def test_metrics_speak_for_the_outputs_that_they_score() -> None:
    found = floors("text=-3%", metrics=("top1@answer",))
    assert found == {"top1@answer=-3%": -0.03, "kind.agreement=0.99": 0.99}
    assert floors(metrics=("top1@answer",))["top1@answer=-1%"] == -0.01
    assert floors(metrics=("top1",))["top1=-1%"] == -0.01
    assert floors("text.top1=-0.5%", metrics=("top1@answer",))["answer.top1=-0.5%"] == -0.005


def test_plain_floors_stay_and_the_rest_keeps_one_percent() -> None:
    assert floors() == {"answer.cosine=0.99": 0.99, "kind.agreement=0.99": 0.99}
    assert floors("cosine=0.9")["answer.cosine=0.9"] == 0.9
    assert floors("kind.agreement=0.5")["answer.cosine=0.99"] == 0.99


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imaeg=-1%", "or a modality: image, text"),
        ("nothing.cosine=0.9", "no output 'nothing'"),
        ("image=0.5", "say what output 'answer' may lose"),
        ("image=+1%", "say what output 'answer' may lose"),
        ("image=-x%", "does not parse"),
    ],
)
def test_a_floor_of_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        floors(text)
