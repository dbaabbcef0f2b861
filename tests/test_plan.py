"""Plans: pure, explained, and honest about what a device cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesdk.budget import Budget, parse_budget
from edgesdk.errors import BackendUnavailable, ModelError, RecipeError
from edgesdk.model import Model, read_model
from edgesdk.pipeline import Pipeline
from edgesdk.plan.candidate import Plan
from edgesdk.plan.make import Engine, SampleFacts, make_plan
from edgesdk.profile import load_profile
from edgesdk.recipe import Recipe

REAL = SampleFacts(calibration_rows=20, uniform_shapes={"image": (1, 3, 32, 32)}, synthetic=False)


class AnyRecipe:
    """An engine that runs whatever the profile lets it."""

    def rejects(self, recipe: Recipe) -> str | None:
        del recipe
        return None


ENGINES = (
    Engine(name="onnxruntime", facts=AnyRecipe(), version="1.31.1"),
    Engine(name="openvino", facts=AnyRecipe(), version="2026.4.1"),
)


@pytest.fixture(scope="module")
def model(small_cnn: Path) -> Model:
    return read_model(small_cnn)


def plan(model: Model, profile: str, samples: SampleFacts = REAL, **options: object) -> Plan:
    settled: dict[str, object] = {"budget": Budget(), **options}
    return make_plan(
        Pipeline.of(model),
        load_profile(profile),
        ENGINES,
        samples,
        **settled,  # type: ignore[arg-type]
    )


def names(made: Plan) -> list[str]:
    return [candidate.name for candidate in made.candidates]


def test_every_candidate_and_every_rejection_has_its_reason(model: Model) -> None:
    made = plan(model, "x86-amx")
    assert made.candidates
    assert all(candidate.why for candidate in made.candidates)
    assert all(item.reason for item in made.rejected)
    assert not set(names(made)) & {item.name for item in made.rejected}


def test_the_first_usable_engine_runs_the_baseline(model: Model) -> None:
    assert plan(model, "x86-amx").baseline.name == "onnxruntime/fp32"


def test_bf16_is_tried_only_where_the_device_has_it(model: Model) -> None:
    assert "openvino/bf16" in names(plan(model, "x86-amx"))
    made = plan(model, "x86-avx2", only=("openvino/bf16",))
    assert names(made) == []
    (reason,) = [item.reason for item in made.rejected if item.name == "openvino/bf16"]
    assert "units.cpu" in reason


def test_without_vnni_int8_gets_weights_that_cannot_saturate(model: Model) -> None:
    made = plan(model, "x86-avx2", only=("onnxruntime/w8a8-static",))
    assert names(made) == ["onnxruntime/w8a8-static-reduce"]
    assert [item.name for item in made.rejected] == ["onnxruntime/w8a8-static"]


def test_nothing_is_calibrated_without_real_samples(model: Model) -> None:
    none = SampleFacts(calibration_rows=0, uniform_shapes=None, synthetic=True)
    made = plan(model, "x86-amx", none)
    assert not any(c.single.recipe.needs_calibration for c in made.candidates)
    assert made.shapes is None
    assert any("UNKNOWN" in note for note in made.notes)


def test_forms_that_are_only_smaller_wait_for_a_budget_that_asks(model: Model) -> None:
    assert "onnxruntime/fp32-w16" not in names(plan(model, "x86-amx"))
    small = Budget(limits=parse_budget("size=1MB"))
    assert "onnxruntime/fp32-w16" in names(plan(model, "x86-amx", budget=small))


def test_zeros_that_no_kernel_skips_wait_for_a_budget_that_asks_for_size(model: Model) -> None:
    wanted = ("onnxruntime/sparse50+w8a8-static", "openvino/sparse50+w8a8-static-nncf")
    made = plan(model, "x86-avx2", only=wanted)
    assert names(made) == []
    refused = {item.name: item for item in made.rejected}
    assert refused.keys() == set(wanted)
    for item in refused.values():
        assert "zipped" in item.reason
        assert {cause.kind for cause in item.causes} == {"engine", "budget"}
        assert item.alternative is not None
        assert item.alternative.options == ("--objective", "size")
    assert "no kernel that skips zeros" in refused[wanted[0]].reason
    assert wanted[1] in names(plan(model, "x86-amx", only=wanted))
    assert names(plan(model, "x86-avx2", only=wanted[1:], budget=Budget(objective="size")))


def test_shapes_are_fixed_only_when_all_samples_agree(model: Model) -> None:
    assert plan(model, "x86-amx").shapes == (("image", (1, 3, 32, 32)),)
    assert plan(model, "x86-amx", fix_shapes=False).shapes is None


def test_a_recipe_that_does_not_decode_is_named(model: Model) -> None:
    with pytest.raises(RecipeError, match="int8"):
        plan(model, "x86-amx", only=("int8",))


def test_an_engine_that_is_missing_is_said_with_the_way_to_get_it(model: Model) -> None:
    gone = Engine(name="onnxruntime", facts=None, unavailable="pip install 'edgesdk[onnxruntime]'")
    with pytest.raises(BackendUnavailable, match="pip install"):
        make_plan(Pipeline.of(model), load_profile("x86-amx"), [gone], REAL, budget=Budget())


def test_a_model_that_no_runtime_of_the_device_reads_is_refused(model: Model) -> None:
    from dataclasses import replace

    newer = replace(model, opset=99)
    with pytest.raises(ModelError, match="99"):
        make_plan(Pipeline.of(newer), load_profile("x86-amx"), ENGINES[:1], REAL, budget=Budget())


def test_the_same_input_gives_the_same_plan(model: Model) -> None:
    assert plan(model, "x86-amx") == plan(model, "x86-amx")
