"""`pipeline.toml`: what is read of it, and every mistake named with component, tensor and remedy."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from small_pipelines import (
    CAPTION,
    CHAT,
    CROP,
    FUSED,
    LISTEN,
    READ,
    TWO_TOWERS,
    decoder,
    detector,
    fusion,
    image_tower,
    recogniser,
    similarity,
    text_tower,
    voice,
    write_folder,
)

from edgesdk.errors import ModelError, PipelineError
from edgesdk.model import read_model
from edgesdk.pipeline import Pipeline
from edgesdk.pipeline_order import in_order
from edgesdk.pipeline_reader import make_pipeline, read_pipeline
from edgesdk.signature import TensorInfo
from edgesdk.wiring import Loop, Stage, TensorSource

MAKERS = (image_tower, text_tower, similarity, fusion, voice, decoder, detector, recogniser)
CHATTING = CHAT.replace("END", "[2]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the small models beside each other."""
    place = tmp_path_factory.mktemp("models")
    write_folder(place, "", *MAKERS, first={"memory": True}, plain={"cache": False})
    (place / "crop.py").write_text(CROP)
    return place


def read(folder: Path, text: str) -> Pipeline:
    (folder / "pipeline.toml").write_text(text, encoding="utf-8")
    return read_pipeline(folder / "pipeline.toml")


def test_equal_names_wire_themselves_and_the_order_follows(folder: Path) -> None:
    text = """
    inputs = { page = "image" }
    outputs = { letters = "read.letters" }
    [components.recogniser]
    model = "recogniser.onnx"
    inputs.line = { each = "crop.lines" }
    [components.crop]
    function = "crop.py:crop"
    takes = { page = "float32[1, 1, h, w]", map = "float32[1, 1, h, w]" }
    gives = { lines = "float32[n, 1, 1, w]" }
    [components.detector]
    model = "detector.onnx"
    [loops.read]
    components = ["recogniser"]
    gives.letters = { from = "recogniser.letters", join = 0 }
    """
    pipeline = read(folder, text)
    assert [stage.name for stage in pipeline.wiring.stages] == ["detector", "crop", "recogniser"]
    assert [component.name for component in pipeline.components] == ["detector", "recogniser"]
    crop = pipeline.wiring.stage("crop")
    assert [str(origin) for _, origin in crop.inputs] == ["page", "detector.map"]
    assert str(pipeline.wiring.inputs[0].info) == "page: float32[1, 1, height, width]"
    assert pipeline.functions["crop"].endswith("crop.py:crop")


def test_the_same_in_python(folder: Path) -> None:
    document = tomllib.loads(TWO_TOWERS)
    document["components"]["image"]["model"] = read_model(folder / "image_tower.onnx")
    made = make_pipeline(document, folder=folder)
    assert made.wiring == read(folder, TWO_TOWERS).wiring
    assert made.sha256 == read(folder, TWO_TOWERS).sha256
    assert read(folder, FUSED_TEXT).sha256 != made.sha256
    assert json.loads(json.dumps(made.to_json()))["components"][0]["parameters"] == 216


FUSED_TEXT = FUSED.replace("count.py:count", "crop.py:crop")


def test_a_component_is_found_by_its_name(folder: Path) -> None:
    pipeline = read(folder, TWO_TOWERS)
    assert pipeline.component("text").model.inputs[0].name == "ids"
    with pytest.raises(ModelError, match="no component 'audio'; legal: image, text, head"):
        pipeline.component("audio")
    with pytest.raises(ModelError, match="takes one model; the pipeline has: image, text, head"):
        _ = pipeline.single


def test_what_nobody_reads_and_what_looks_exchanged_is_said(folder: Path) -> None:
    swapped = TWO_TOWERS.replace(
        'image_embedding = "image.embedding", text_embedding = "text.embedding"',
        'image_embedding = "text.embedding", text_embedding = "image.embedding"',
    )
    (warning,) = read(folder, swapped).warnings
    assert "'image_embedding' and 'text_embedding' of component 'head' look exchanged" in warning
    (warning,) = read(
        folder, CHATTING.replace("decoder.present_key", "decoder.present_value")
    ).warnings
    assert warning == "output 'present_key' of component 'decoder' is read by nobody"
    assert not read(folder, TWO_TOWERS).warnings
    assert not read(folder, FUSED_TEXT).warnings


# Each: a pipeline, a part of its text, what is written instead, and what the message must hold.
MISTAKES = [
    (TWO_TOWERS, '"text.embedding"', '"txet.embedding"', r"text_embedding = 'txet.embedding': there is "
     r"no component 'txet'; did you mean 'text'\?"),
    (TWO_TOWERS, '"text.embedding"', '"text.embeding"', r"component 'text' has no output 'embeding'; did "
     r"you mean 'embedding'\?"),
    (TWO_TOWERS, "text_embedding =", "text_embeding =", r"component 'head' has no input 'text_embeding'; "
     r"did you mean 'text_embedding'\?"),
    (TWO_TOWERS, ', text_embedding = "text.embedding"', "", r"input text_embedding: float32\[n, 8\] of "
     r"component 'head' is wired to nothing; say what it gets: components.head.inputs.text_em"),
    (TWO_TOWERS, "text_tower.onnx", "text_towr.onnx", r"no file .*; did you mean 'text_tower.onnx'\?"),
    (TWO_TOWERS, '"image.embedding"', '"ids"', r"input 'image_embedding' of component 'head' is float32, "
     r"but its source is int64; export"),
    (TWO_TOWERS, '"image.embedding"', '"image"', r"input 'image_embedding' of component 'head' has 2 "
     r"axes.*it comes from image: float32\[.*\] with 4; put a Reshape"),
    (TWO_TOWERS, 'image = "image", ids', 'picture = "image", ids', r"input image: float32.* of component "
     "'image' is wired to nothing"),
    (TWO_TOWERS, '= "image", ids', '= "image", image2 = "image", ids', r"inputs.image2: no component reads "
     "it; wire it to one, or leave it out"),
    (TWO_TOWERS, '["scores"]', '["score"]', r"outputs: no 'score'; did you mean 'scores'\?"),
    (TWO_TOWERS, '["scores"]', '["embedding"]', "'embedding' is made in image.embedding and text.embedding"),
    (TWO_TOWERS, '["scores"]', "[]", "outputs is empty"),
    (TWO_TOWERS, "model = \"image", "modell = \"image", r"unknown key components.image.modell; did you "
     r"mean 'model'\?"),
    (TWO_TOWERS, 'ids = "text"', 'ids = { modality = "text", missing = "skip" }', r"output 'scores' is not "
     "there when input 'ids' is missing, because component 'head' is skipped then; mark it optional, or"),
    (TWO_TOWERS, 'ids = "text"', 'ids = { missing = "skip" }', "inputs.ids.modality is missing"),
    (TWO_TOWERS, 'ids = "text"', 'ids = { modality = "text", missing = { value = 0.5, shape = [1, 2] } }',
     r"the fill of input 'ids' is int64 and cannot be 0.5"),
    (TWO_TOWERS, 'ids = "text"', 'ids = { modality = "text", missing = { value = 0, shape = ["k", 2] } }',
     r"names 'k', no free axis of an input that is always there"),
    (TWO_TOWERS, 'ids = "text"', 'ids = { modality = "text", missing = { value = 0, shape = [2] } }',
     r"the fill of input 'ids' has 2 axes"),
    (TWO_TOWERS, 'ids = "text"', 'ids = { modality = "text", missing = "drop" }', "legal: 'skip', or"),
    (TWO_TOWERS + "[components.audio]\nmodel = 'image_tower.onnx'\n", 'image_embedding = "image.embedding"',
     'embedding = "image.embedding"', "component 'head' has no input 'embedding'"),
    (LISTEN, 'voice.state_out" }\n[l', 'voice.speech" }\n[l', r"the next input 'state' of component 'voice' "
     r"has 3 axes.*the state does not fit: it comes from speech: float32\[batch, 1\] with 2"),
    (LISTEN, '{ start = { value = 0.0, shape = [2, 1, 8] }, next = "voice.state_out" }', '"voice.state_out"',
     r"a circle: input 'state' of component 'voice' reads voice.state_out. .*carry"),
    (LISTEN, "shape = [2, 1, 8]", "shape = [2, 8]", "the start of input 'state' of component 'voice' has 3"),
    (LISTEN, ', next = "voice.state_out"', "", "it takes one of next, append and advance"),
    (LISTEN, '[loops.listen]\ncomponents = ["voice"]\n', '[loops.listen]\ncomponents = ["noise"]\n',
     r"loops.listen: there is no component 'noise'; did you mean 'voice'\?"),
    (LISTEN, 'speech = "listen.speech"', 'speech = "voice.speech"', r"output 'speech' comes from tensor "
     r"'speech' of component 'voice', which runs in loop 'listen'; outside, read what the loop gives: "
     r"listen.speech, listen.state"),
    (LISTEN, '{ each = "frames" }', '{ each = "frames", axis = 2 }', "axis 0 to 1"),
    (LISTEN, '{ each = "frames" }', '"frames"', "loop 'listen' with component 'voice' may never end: it has "
     "no length; add steps = 128"),
    (LISTEN, "join = 0", "join = 2", "joins along axis 2; .* has axes 0 to 1"),
    (CHATTING, "steps = 7\n", "", r"loop 'generate' with component 'decoder' may never end: it has no length"
     ", because its end token may never come; add steps = 128"),
    (CHATTING, "steps = 7\nend = [2]\n", "", "may never end: it has no length; add steps = 128"),
    (CHATTING, 'token = "decoder.logits"\n', "", "'token'"),
    (CHATTING, 'token = "decoder.logits"', 'token = "decoder.present_key"\nend_ = 3', "unknown key loops"),
    (CHATTING, "axis = 1", "axis = 2", "grows along axis 2; it has 2 axes"),
    (CHATTING, 'next = "decoder.present_key"', 'next = "generate.token"', "the next input 'past_key' of "
     "component 'decoder' is float32, but its source is int64"),
    (CHATTING, 'shape = ["batch", 0, 8] }, next = "decoder.present_v', 'shape = ["batch", 0, 9] }, next = '
     '"decoder.present_v', "the start of input 'past_value' of component 'decoder': axis 2 has length 8"),
    (CAPTION, 'start = "caption.token"', 'start = "first.logits"', "is int64, but its source is float32"),
    (READ, 'takes = { page = "float32[1, 1, h, w]", map = "float32[1, 1, h, w]" }\n', "",
     "components.crop.takes is missing"),
    (READ, '"float32[n, 1, 1, w]"', '"float32[n, 1, 1 w]"', "'1 w' is no axis"),
    (READ, "crop.py:crop", "crop.py", "function = 'crop.py'; legal: 'module:function'"),
    (READ, '"float32[n, 1, 1, w]"', '"float32[n, 1, 2, w]"', "input 'line' of component 'recogniser': axis "
     "2 has length 1.*it comes from a piece of lines"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part", "instead", "message"), MISTAKES)
def test_a_mistake_is_named_with_component_tensor_and_remedy(
    folder: Path, text: str, part: str, instead: str, message: str
) -> None:
    assert text.count(part) >= 1
    with pytest.raises((PipelineError, ModelError), match=message):
        read(folder, text.replace(part, instead, 1))


def test_two_sources_of_a_name_are_not_chosen_between(folder: Path) -> None:
    text = """
    inputs = { image = "image", ids = "text" }
    outputs = ["logits"]
    [components.one]
    model = "image_tower.onnx"
    [components.two]
    model = "text_tower.onnx"
    [components.end]
    function = "crop.py:crop"
    takes = { embedding = "float32[n, 8]" }
    gives = { logits = "float32[n]" }
    """
    with pytest.raises(
        PipelineError,
        match=r"input 'embedding' of component 'end' could come from one.embedding and two.embedding; "
        r"say which: components.end.inputs.embedding = 'one.embedding'",
    ):
        read(folder, text)


def test_a_length_that_two_components_fix_differently_is_found_through_a_free_axis(
    folder: Path,
) -> None:
    step = (
        '[components.{0}]\nfunction = "crop.py:crop"\ntakes = {{ {1} = "float32[{2}]" }}\n'
        'gives = {{ {3} = "float32[{4}]" }}\n'
    )
    chain = (
        step.format("one", "x", "4, k", "y", "4, k")
        + step.format("two", "y", "a, b", "z", "a, b")
        + step.format("three", "z", "5, b", "logits", "5")
    )
    text = 'inputs = { x = "signal" }\noutputs = ["logits"]\n' + chain
    with pytest.raises(
        PipelineError,
        match=r"makes an axis 4 long that .*'z' of component 'three' makes 5 long; export",
    ):
        read(folder, text)


def test_a_circle_of_several_components_is_told_wire_by_wire() -> None:
    info = TensorInfo(name="x", dtype="float32", shape=(1,))
    stages = [
        Stage(
            name=name,
            inputs=((info, TensorSource(component=source, tensor="x")),),
            outputs=(info,),
        )
        for name, source in (("a", "c"), ("b", "a"), ("c", "b"))
    ]
    with pytest.raises(
        PipelineError, match=r"'x' of component 'a' reads c\.x; .*'c' reads b\.x; .*'b'"
    ):
        in_order(stages, ())
    loop = Loop(name="l", stages=("a", "b", "c"), gives=())
    with pytest.raises(PipelineError, match="a circle"):
        in_order(stages, (loop,))


def test_no_file_and_no_toml_are_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nothing\.toml"):
        read_pipeline(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("inputs = [")
    with pytest.raises(PipelineError, match=r"bad\.toml"):
        read_pipeline(tmp_path / "bad.toml")
