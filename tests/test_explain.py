"""A plan explains itself: each reason has its fact, each fact its place and source, and a way out."""

from __future__ import annotations

import json
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgesdk.arrays import save_arrays
from edgesdk.budget import Budget
from edgesdk.cause import Cause, reason
from edgesdk.cli.app import app
from edgesdk.model import Model, read_model
from edgesdk.pipeline import Pipeline
from edgesdk.plan.alternatives import nearest
from edgesdk.plan.candidate import Choice, Plan, Rejected
from edgesdk.plan.make import Engine, SampleFacts, make_plan
from edgesdk.profile import load_profile, profile_names
from edgesdk.profile_reader import normalise, statement_keys
from edgesdk.recipe import Recipe

REAL = SampleFacts(calibration_rows=20, uniform_shapes=None, synthetic=False)
NONE = SampleFacts(calibration_rows=0, uniform_shapes=None, synthetic=True)
SHIPPED = [name for name in profile_names() if name != "x86"]
RECIPES = (
    "bf16",
    "w8a16-static",
    "w8a8-dynamic",
    "w8a8-static",
    "w8a8-static-nncf-bf16",
    "w8a8-static-reduce",
    "w4b32-only",
)


class AnyRecipe:
    def rejects(self, recipe: Recipe) -> str | None:
        del recipe
        return None


def engine(name: str) -> Engine:
    versions = {
        "openvino": "2026.4.1",
        "tensorrt": "10.3",
        "litert": "2.1",
        "qnn": "2.7",
        "ethos-u": "5.2.0",
    }
    return Engine(name=name, facts=AnyRecipe(), version=versions.get(name, "1.31.1"))


@pytest.fixture(scope="module")
def model(small_cnn: Path) -> Model:
    return read_model(small_cnn)


def plan(model: Model, name: str, samples: SampleFacts = REAL, only: tuple[str, ...] = ()) -> Plan:
    profile = load_profile(name)
    engines = [engine(backend) for backend in profile.backends]
    return make_plan(Pipeline.of(model), profile, engines, samples, budget=Budget(), only=only)


def rejected(made: Plan, name: str) -> Rejected:
    (found,) = [item for item in made.rejected if item.name == name]
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_a_cited_line_is_in_the_cited_file(name: str, model: Model) -> None:
    causes = [cause for item in plan(model, name, only=RECIPES).rejected for cause in item.causes]
    assert causes or name == "x86-amx"
    for cause in causes:
        assert cause.kind == "profile"
        text = (files("edgesdk_profiles") / cause.file).read_text(encoding="utf-8")
        stated = set(statement_keys(normalise(tomllib.loads(text))))
        above = cause.key.rpartition(".")[0]
        if "default" in cause.source:
            assert cause.value is False
            assert cause.key not in stated
            assert f"{above}.name" in stated
        else:
            assert cause.source
            assert cause.date
            assert stated & {cause.key, above}, cause


def test_a_line_is_cited_where_it_counts_and_with_the_source_of_that_file(model: Model) -> None:
    made = plan(model, "x86-vnni", only=("onnxruntime/w8a8-static-reduce", "onnxruntime/bf16"))
    (needless,) = rejected(made, "onnxruntime/w8a8-static-reduce").causes
    assert (needless.file, needless.key) == (
        "x86-vnni.toml",
        "runtimes.onnxruntime.u8s8_saturates",
    )
    assert needless.value is False
    (inherited,) = rejected(made, "onnxruntime/bf16").causes
    assert inherited.file == "x86-avx2.toml"
    assert inherited.key == "runtimes.onnxruntime.capabilities.*.bf16"
    assert "executed graphs read back" in inherited.source
    nano = plan(model, "jetson", only=("tensorrt/w8a16-static-symmetric",))
    (of_family,) = rejected(nano, "tensorrt/w8a16-static-symmetric").causes
    assert of_family.file == "jetson-orin.toml"
    assert "data sheet" not in of_family.source


def test_a_figure_is_cited_with_its_own_source(tmp_path: Path, model: Model) -> None:
    board = tmp_path / "board.toml"
    board.write_text(
        'schema = 1\nextends = "x86-amx"\nname = "board"\n[[runtimes]]\nname = "onnxruntime"\n'
        'max_opset = { value = 12, unit = "opset", source = "its manual", date = 2020-01-02 }\n'
    )
    made = plan(model, str(board))
    stated, own = rejected(made, "onnxruntime/*").causes
    assert (stated.file, stated.source, stated.date) == ("board.toml", "its manual", "2020-01-02")
    assert stated.fact == "runtimes.onnxruntime.max_opset = 12"
    assert (own.kind, own.key, own.value) == ("model", "opset", model.opset)


def test_every_kind_of_fact_is_told_as_one(model: Model) -> None:
    calibrated, bare = plan(model, "x86-avx2"), plan(model, "x86-avx2", NONE)
    kinds = {cause.kind for made in (calibrated, bare) for r in made.rejected for cause in r.causes}
    assert kinds >= {"profile", "model", "samples", "budget"}
    (budget,) = rejected(calibrated, "onnxruntime/fp32-w16").causes
    assert (budget.key, budget.value) == ("objective", "latency")
    (samples,) = rejected(bare, "onnxruntime/w8a8-static").causes
    assert (samples.key, samples.value) == ("calibration_rows", 0)
    missing = Engine(name="onnxruntime", facts=None, unavailable="pip install it")
    made = make_plan(
        Pipeline.of(model),
        load_profile("x86-amx"),
        [missing, engine("openvino")],
        REAL,
        budget=Budget(),
    )
    (cause,) = rejected(made, "onnxruntime/*").causes
    assert (cause.kind, cause.why) == ("engine", "pip install it")


@pytest.mark.parametrize(
    ("name", "asked", "instead"),
    [
        ("x86-avx2", "onnxruntime/w8a8-static", "onnxruntime/w8a8-static-reduce"),
        ("x86-vnni", "openvino/w8a8-static-reduce", "openvino/w8a8-static"),
        ("x86-avx2", "openvino/w8a8-static-nncf-bf16", "openvino/w8a8-static-nncf-reduce"),
        ("x86-amx", "onnxruntime/bf16", "openvino/bf16"),
        ("x86-amx", "onnxruntime/w8a16-static", "onnxruntime/w8a8-static"),
        ("mobile-npu", "qnn/fp32", "qnn/fp16"),
        ("jetson", "tensorrt/w8a8-static", "tensorrt/w8a8-static-symmetric"),
    ],
)
def test_the_nearest_form_that_works_is_named(
    name: str, asked: str, instead: str, model: Model
) -> None:
    found = rejected(plan(model, name, only=(asked,)), asked).alternative
    assert found is not None
    assert found.name == instead
    assert found.options == ("--recipe", instead)
    assert instead in [item.name for item in plan(model, name, only=found.options[1:]).candidates]


def test_what_only_lacks_samples_or_a_reason_is_told_how_to_get_it(model: Model) -> None:
    bare = rejected(plan(model, "x86-amx", NONE), "onnxruntime/w8a8-static")
    assert bare.alternative is not None
    assert bare.alternative.options == ("--samples", "SAMPLES")
    small = rejected(plan(model, "x86-amx"), "onnxruntime/fp32-w16")
    assert small.alternative is not None
    assert small.alternative.options == ("--objective", "size")


CHOICES = st.builds(
    Choice,
    recipe=st.sampled_from(RECIPES).map(Recipe.parse),
    backend=st.sampled_from(["onnxruntime", "openvino"]),
)


@given(CHOICES, st.sets(CHOICES))
def test_an_alternative_is_another_choice_and_legal(choice: Choice, legal: set[Choice]) -> None:
    found = nearest(choice, ("onnxruntime", "openvino"), legal.__contains__)
    assert found is None or (found != choice and found in legal)
    other = {"onnxruntime": "openvino", "openvino": "onnxruntime"}[choice.backend]
    if Choice(recipe=choice.recipe, backend=other) in legal:
        assert found is not None


def test_backends_take_turns_and_the_float_model_comes_first(model: Model) -> None:
    names = [item.name for item in plan(model, "x86-amx").candidates]
    assert names[:2] == ["onnxruntime/fp32", "openvino/fp32"]
    assert [name.partition("/")[0] for name in names[:4]] == ["onnxruntime", "openvino"] * 2
    assert len(names) == len(set(names))


def test_facts_read_as_toml_does() -> None:
    cause = Cause(kind="profile", key="runtimes.a.b", value=True, why="so it is")
    assert str(cause) == "runtimes.a.b = true: so it is"
    assert cause.to_json()["value"] is True
    model = Cause(kind="model", key="ops.LSTM", value=2, why="it recurs")
    assert reason((model, cause), "p") == "it recurs; profile p: runtimes.a.b = true: so it is"


def call(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_line_explains_in_words_and_as_data(
    small_cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    samples = tmp_path / "rows.npz"
    rows = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    save_arrays(samples, {"image": rows})
    words = ("plan", small_cnn, "--profile", "x86-avx2", "--samples", samples, "--explain")
    document = json.loads(call(*words, "--json"))
    assert all(item["why"] for item in document["candidates"])
    assert any("calibration samples" in item["needs"] for item in document["candidates"])
    told = {item["name"]: item for item in document["rejected"]}
    (cause,) = told["onnxruntime/w8a8-static"]["causes"]
    assert cause["file"] == "x86-avx2.toml"
    assert set(cause) == {"kind", "key", "value", "why", "source", "date", "file"}
    command = shlex.split(told["openvino/fp32-w16"]["alternative"]["command"])
    assert command[:2] == ["edgesdk", "deploy"]
    again = json.loads(call("plan", *command[2:], "--json"))
    assert "openvino/fp32-w16" in [item["name"] for item in again["candidates"]]
    view = call(*words)
    assert "x86-avx2.toml:  runtimes.onnxruntime.u8s8_saturates = true" in view
    assert "instead: onnxruntime/w8a8-static-reduce, number" in view
    for item in document["rejected"]:
        assert item["name"].partition("/")[2] in view
