"""Bundles of whole pipelines: loops, missing inputs, steps of the app; and such that lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pipelines import (
    CHAT,
    CROP,
    FUSED,
    LISTEN,
    READ,
    decoder,
    detector,
    executor_of,
    fusion,
    image_tower,
    recogniser,
    text_tower,
    voice,
    write_folder,
)

from edgesdk.backend import require_backend
from edgesdk.bundle.golden import GoldenSample
from edgesdk.bundle.manifest import Engine, Identity, Quality, to_json
from edgesdk.bundle.read import parse_manifest, read_manifest
from edgesdk.bundle.write import BundleContents, BundledComponent, wired_ports, write_bundle
from edgesdk.errors import BundleError, InputError
from edgesdk.opened import open_target
from edgesdk.pipeline import Pipeline
from edgesdk.pipeline_reader import read_pipeline
from edgesdk.recipe import Recipe
from edgesdk.runtime import load
from edgesdk.usercode import load_object

Feed = Mapping[str, Any]


def bundle_of(pipeline: Pipeline, feeds: list[Feed], folder: Path) -> Path:
    """The float pipeline on onnxruntime, with its runs as golden samples."""
    engine = require_backend("onnxruntime")
    wiring = pipeline.wiring
    components = []
    for component in pipeline.components:
        place = folder / f"artifact-{component.name}"
        place.mkdir(parents=True)
        stage = wiring.stage(component.name)
        components.append(
            BundledComponent(
                name=component.name,
                original_sha256=component.model.sha256,
                recipe=Recipe(),
                engine=Engine(name="onnxruntime", tested=engine.version(), minimum="1.0"),
                artifact=engine.convert(component.model.path, Recipe(), place),
                folder=place,
                threads=1,
                inputs=stage.inputs,
                outputs=stage.outputs,
            )
        )
    run = executor_of(pipeline).run
    runs = [(feed, run(feed)) for feed in feeds]
    inputs, outputs = wired_ports(wiring)
    contents = BundleContents(
        model=Identity(name=pipeline.name, sha256=pipeline.sha256),
        profile=Identity(name="x86", sha256="b" * 64),
        inputs=inputs,
        outputs=outputs,
        components=tuple(components),
        quality=Quality(verdict="unknown"),
        golden=tuple(GoldenSample(inputs=f, reference=o, expected=o) for f, o in runs),
        loops=wiring.loops,
        processing=tuple(stage for stage in wiring.stages if stage.name in pipeline.functions),
        order=tuple(stage.name for stage in wiring.stages) if pipeline.functions else (),
    )
    write_bundle(contents, folder / "bundle")
    return folder / "bundle"


PROMPT = {"prompt": np.array([[1, 2, 3]]), "mask": np.ones((1, 3), np.int64)}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    folder = tmp_path_factory.mktemp("chat")
    pipeline = read_pipeline(write_folder(folder, CHAT.replace("END", "[2]"), decoder))
    return pipeline, bundle_of(pipeline, [PROMPT], folder)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    (folder / "count.py").write_text("def count(feed):\n    return {'turned': feed['turn'] + 1}\n")
    pipeline = read_pipeline(write_folder(folder, FUSED, image_tower, text_tower, fusion))
    image = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    ids, turn = np.array([[1, 2]]), np.array([5])
    feeds: list[Feed] = [
        {"image": image, "ids": ids, "turn": turn},
        {"image": image, "turn": turn},
        {"turn": turn},
    ]
    return bundle_of(pipeline, feeds, folder)


def test_a_bundle_generates_token_by_token(chat: tuple[Pipeline, Path]) -> None:
    pipeline, bundle = chat
    want = executor_of(pipeline).run(PROMPT)["tokens"]
    with load(bundle) as session:
        assert session.manifest.features == ("loops",)
        assert session.manifest.wiring == pipeline.wiring
        np.testing.assert_array_equal(session.run(PROMPT)["tokens"], want)
        stream = session.stream(PROMPT)
        tokens = [int(step.values["tokens"][0, 0]) for step in stream]
        assert tokens == want[0].tolist()
        assert stream.outputs is not None
        assert session.self_test().ok
        with pytest.raises(InputError, match="input 'mask' is missing"):
            session.stream({"prompt": PROMPT["prompt"]})
    with pytest.raises(InputError, match="the session is closed"):
        session.stream(PROMPT)


def test_a_bundle_follows_a_microphone(tmp_path: Path) -> None:
    pipeline = read_pipeline(write_folder(tmp_path, LISTEN, voice))
    frames = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    with load(bundle_of(pipeline, [{"frames": frames}], tmp_path)) as session:
        whole = session.run({"frames": frames})["speech"]
        live = session.stream({}, more=({"frames": frame[None]} for frame in frames))
        np.testing.assert_array_equal(np.concatenate([s.values["speech"] for s in live]), whole)
        assert session.self_test().ok


def test_modalities_may_be_missing_and_the_self_test_covers_it(fused: Path) -> None:
    with pytest.raises(
        InputError, match=r"leaves step 'count' to the app: it makes turned: int64\[batch\]"
    ):
        load(fused)
    count = {"count": lambda feed: {"turned": feed["turn"] + 1}}
    with pytest.raises(InputError, match="no processing step 'crop'; it has: \\['count'\\]"):
        load(fused, processing={**count, "crop": count["count"]})
    with load(fused, processing=count) as session:
        assert session.manifest.features == ("optional", "processing")
        assert [port.modality for port in session.manifest.inputs] == ["image", "text", "number"]
        test = session.self_test()
        assert test.ok, str(test)
        assert {check.sample: check.output for check in test.checks if check.output == "seen"} == {
            "golden/0000.npz": "seen",
            "golden/0001.npz": "seen",
        }
    wrong = {"count": lambda feed: {"turned": feed["turn"] + 2}}
    with load(fused, processing=wrong) as session:
        assert not session.self_test().ok


def test_a_detector_and_a_recogniser_ship_together(tmp_path: Path) -> None:
    (tmp_path / "crop.py").write_text(CROP)
    pipeline = read_pipeline(write_folder(tmp_path, READ, detector, recogniser))
    page = np.zeros((1, 1, 6, 9), np.float32)
    page[0, 0, [1, 4]] = 1.5
    bundle = bundle_of(pipeline, [{"page": page}], tmp_path)
    with load(bundle, processing={"crop": load_object(pipeline.functions["crop"])}) as session:
        assert session.run({"page": page})["letters"].shape == (2, 9, 5)
        assert session.self_test().ok


def test_what_takes_one_model_refuses_a_pipeline(
    chat: tuple[Pipeline, Path], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="a bundle of one model; this one is a pipeline of: decoder"
    ):
        open_target(chat[1], tmp_path)


def test_the_specification_names_every_field(chat: tuple[Pipeline, Path], fused: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "bundle.md").read_text().split("### Example")[0]
    words = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", text))))

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    for bundle in (chat[1], fused):
        document = to_json(read_manifest(bundle))
        parts = ("inputs", "outputs", "loops", "processing", "order")
        found = {part: document.get(part, []) for part in parts}
        wires = [component["inputs"] for component in document["components"]]
        assert keys(found) | keys(wires) <= words


# --- manifests that lie


def put(value: Any, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


IDS, MASK, PAST = (("components", 0, "inputs", n, "from") for n in (0, 1, 2))
SOURCE = {"component": None, "tensor": "prompt"}
LIES = [
    (put([], "requires"), r"it uses 'loops', which requires does not name"),
    (put(["loops", "mind reading"], "requires"), "needs 'mind reading', unknown"),
    (put(None, "loops", 0, "steps"), "loop 'generate' with component 'decoder' may never end"),
    (put(2**62, "loops", 0, "steps"), r"steps = 4611686018427387904; legal: 1 to 1048576"),
    (put(0, "loops", 0, "steps"), r"loops\[0\]\.steps is 0"),
    (put([], "loops", 0, "components"), "runs nothing"),
    (put(["encoder"], "loops", 0, "components"), "there is no component 'encoder'"),
    (put(["decoder", "decoder"], "loops", 0, "components"), "is in two loops"),
    (put("decoder", "loops", 0, "name"), "two components are named 'decoder'"),
    (put("../x", "loops", 0, "name"), r"loops\[0\]\.name is '\.\./x'"),
    (put(None, "loops", 0, "token"), "ends at a token but chooses none"),
    (put([1.5], "loops", 0, "end"), r"end\[0\] is 1\.5"),
    (put(9, "loops", 0, "gives", 0, "join"), "joins along axis 9"),
    (put({"value": 0, "shape": [1 << 20, 1 << 20]}, *PAST, "start"), "is too large"),
    (put({"value": 0, "shape": [0, 1 << 40, 8]}, *PAST, "start"), "is too large"),
    (put({"value": 0, "shape": [1] * 100}, *PAST, "start"), "is too large"),
    (put({"value": 0, "shape": ["everything", 0, 8]}, *PAST, "start"), "names 'everything', no free"),
    (put({"value": 1e400, "shape": []}, *PAST, "start"), "Infinity is no JSON number"),
    (put({"value": "0", "shape": []}, *PAST, "start"), r"start\.value is '0'"),
    (put({"value": 2**63, "shape": [1, 1]}, *IDS), r"from\.value is 9223372036854775808"),
    (put(None, *PAST, "start"), r"start is None; must be an object"),
    (put({"component": "decoder", "tensor": "logits"}, *PAST), "carry what comes from the step before"),
    (put({"component": "decoder", "tensor": "nothing"}, *PAST, "next"), "has no such output"),
    (put({"component": "elsewhere", "tensor": "x"}, *PAST, "next"), "which no component of loop"),
    (put(5, *MASK, "axis"), "grows along axis 5; it has 2 axes"),
    (put({"each": SOURCE, "axis": 7, "length": 1}, *IDS), "legal: length 1 and above, axis 0 to 1"),
    (put({"each": SOURCE, "axis": 0, "length": 0}, *IDS), r"length is 0"),
    (put({"present": {"component": "x", "tensor": "y"}, "shape": [1, 1]}, *IDS), "it uses 'optional'"),
    (put("yes", "inputs", 0, "optional"), r"inputs\[0\]\.optional is 'yes'; must be true or false"),
    (put(["decoder", "decoder"], "order"), "order is .*; must be all of"),
    (put(["ghost"], "order"), "order is .*; must be all of"),
    (lambda d: d["loops"].append({**d["loops"][0], "name": "again"}), "is in two loops"),
    (lambda d: d.pop("loops"), "runs in no loop"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), LIES)
def test_a_lying_loop_is_refused(
    chat: tuple[Pipeline, Path], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    document = to_json(read_manifest(chat[1]))
    change(document)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(document).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(max_examples=200)
@given(data=st.data(), value=json_values, which=st.booleans())
def test_any_value_in_any_place_is_read_or_refused_never_worse(
    chat: tuple[Pipeline, Path], fused: Path, data: st.DataObject, value: Any, which: bool
) -> None:
    document = to_json(read_manifest(chat[1] if which else fused))
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            place[key] = value
            break
        place = inner
    try:
        parse_manifest(json.dumps(document).encode())
    except BundleError as exc:
        assert str(exc)  # noqa: PT017 - either outcome is right; anything but BundleError is not
