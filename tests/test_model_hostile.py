"""Files that are no models, are damaged or mean harm: each ends in a ModelError that says what."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from edgesdk.errors import ModelError
from edgesdk.model import Model, read_model
from edgesdk.onnxfile import wire

Change = Callable[[ModelProto], object]


def product_model(weight: TensorProto) -> ModelProto:
    """y = x @ w, with w of 2 x 3."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "made",
        [info("x", TensorProto.FLOAT, ["N", 2])],
        [info("y", TensorProto.FLOAT, ["N", 3])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inline_weight() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, (2, 3), bytes(24), raw=True)


def external_weight(**entries: str) -> TensorProto:
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[2, 3], data_location="EXTERNAL"
    )
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def write(folder: Path, model: ModelProto) -> Path:
    path = folder / "made.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- not a model


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    assert "no model at" in refusal(tmp_path / "missing.onnx")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.onnx").touch()
    assert "is empty" in refusal(tmp_path / "empty.onnx")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    assert "cannot be read" in refusal(Path("a\0b"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x1c\x00\x00\x00TFL3" + bytes(64), "TensorFlow Lite model; convert it with"),
        (b"\x20\x00\x00\x00ORTM" + bytes(64), "ONNX Runtime .ort file"),
        (b"\x18\x00\x00\x00\x00\x00\x00\x00" + b'{"w":{"dtype":"F32"}}   ', "safetensors file"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF file"),
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00a", "pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5 file (Keras .h5)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(64), "JPEG image"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "WAV sound"),
        (b"\x1f\x8b\x08" + bytes(64), "gzip archive"),
        (b"<!DOCTYPE html><html></html>", "web page; the download failed"),
        (b'<?xml version="1.0"?><net name="m"/>', "OpenVINO IR"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
        (b"just words\n", "a text file"),
        ("Gr\u00fc\u00dfe, und noch mehr\n".encode() * 50, "a text file"),
        (b": text that begins like a graph", "a text file"),
        (bytes(range(256)), "damaged, or of an unknown kind"),
    ],
)
def test_other_formats_are_recognised(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert what in refusal(path)


def test_a_pytorch_archive_is_recognised(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 500)
    message = refusal(tmp_path / "model.pt")
    assert "PyTorch" in message
    assert "torch.onnx.export" in message


def test_a_file_beyond_what_protobuf_holds_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31 + 10)
    assert "external data" in refusal(path)


# --- damaged or senseless graphs


def no_such_dtype(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def nested(model: ModelProto) -> None:
    inner = model.graph
    for _ in range(40):
        attribute = inner.node[0].attribute.add(name="g", type=onnx.AttributeProto.GRAPH)
        attribute.g.node.add(op_type="Relu")
        inner = attribute.g


def weight(**fields: Any) -> Change:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            tensor.ClearField(name)
            tensor.MergeFrom(TensorProto(**{name: value}))

    return change


CHANGES: list[tuple[str, Change]] = [
    ("the graph has no nodes", lambda model: model.graph.ClearField("node")),
    ("the graph has no outputs", lambda model: model.graph.ClearField("output")),
    ("it has no graph", lambda model: model.ClearField("graph")),
    ("names no opset", lambda model: model.ClearField("opset_import")),
    ("IR version 0", lambda model: model.ClearField("ir_version")),
    ("opset 0 of", lambda model: model.opset_import[0].ClearField("version")),
    ("at once", lambda model: model.opset_import.add(domain="ai.onnx", version=18)),
    ("'gone', which nothing produces", lambda m: m.graph.node[0].input.append("gone")),
    ("never produced", lambda model: model.graph.output.add(name="gone")),
    ("which exists already", lambda model: model.graph.node[0].output.append("w")),
    ("has no operator", lambda model: model.graph.node[0].ClearField("op_type")),
    ("input 'x' occurs twice", lambda m: m.graph.input.append(m.graph.input[0])),
    ("input 'x' is untyped", lambda model: model.graph.input[0].ClearField("type")),
    (
        "how many axes",
        lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
    ),
    (
        "axis of length -7",
        lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=-7),
    ),
    (
        "axis of length",
        lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2**60),
    ),
    ("is sequence, not a tensor", lambda m: m.graph.input[0].type.sequence_type.SetInParent()),
    ("unknown element type 99", no_such_dtype),
    ("nested deeper", nested),
    ("claims float32[2, 4], 32 bytes, but stores 24", weight(dims=[2, 4])),
    ("axis of length -2", weight(dims=[-2, -3])),
    ("axis of length", weight(dims=[2**62, 2**62])),
    ("70 axes", weight(dims=[1] * 70)),
    ("4398046511104 bytes, but stores 24", weight(dims=[2**20, 2**20])),
    ("unknown element type 0", weight(data_type=0)),
    ("stores 0 entries", lambda model: model.graph.initializer[0].ClearField("raw_data")),
    ("stored in segments", weight(segment=TensorProto.Segment(begin=0, end=1))),
]


@pytest.mark.parametrize(("what", "change"), CHANGES, ids=[what for what, _ in CHANGES])
def test_a_senseless_graph_is_refused(tmp_path: Path, what: str, change: Change) -> None:
    model = product_model(inline_weight())
    assert isinstance(read_model(write(tmp_path, model)), Model)
    change(model)
    assert what in refusal(write(tmp_path, model))


def test_a_large_tensor_that_claims_more_than_it_stores_is_refused(tmp_path: Path) -> None:
    floats = [0.5] * wire.KEEP_BYTES
    for stored in (TensorProto(raw_data=bytes(4 * len(floats))), TensorProto(float_data=floats)):
        tensor = TensorProto(name="w", data_type=1, dims=[2, len(floats) // 2])
        tensor.MergeFrom(stored)
        assert read_model(write(tmp_path, product_model(tensor))).parameters == wire.KEEP_BYTES
        tensor.dims[0] = 3
        assert "claims float32[3, 512]" in refusal(write(tmp_path, product_model(tensor)))


def test_packed_numbers_are_believed_within_what_their_bytes_can_hold(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.INT64, dims=[2000])
    tensor.int64_data.extend(range(2000))
    assert read_model(write(tmp_path, product_model(tensor))).parameters == 2000
    tensor.dims[0] = 5000
    assert "but stores" in refusal(write(tmp_path, product_model(tensor)))


@pytest.mark.parametrize("dtype", ["INT4", "UINT4", "BFLOAT16", "FLOAT16", "BOOL", "COMPLEX64"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_way_of_storing_small_types_is_read(tmp_path: Path, dtype: str, raw: bool) -> None:
    kind = TensorProto.DataType.Value(dtype)
    values = [1, 0, 1, 1, 0]
    sizes = {"INT4": 3, "UINT4": 3, "BOOL": 5, "COMPLEX64": 40}
    content = bytes(sizes.get(dtype, 10)) if raw else values
    tensor = helper.make_tensor("w", kind, (5,), content, raw=raw)
    model = read_model(write(tmp_path, product_model(tensor)))
    assert model.parameters == 5
    assert model.weight_bytes == sizes.get(dtype, 10)


def test_more_fields_than_any_graph_needs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, product_model(inline_weight()))
    monkeypatch.setattr(wire, "MAX_FIELDS", 20)
    assert "more than 20 fields" in refusal(path)


def test_a_message_that_comes_twice_is_refused(tmp_path: Path) -> None:
    # Protobuf would merge the two graphs, so that no reader could trust a check of one.
    content = product_model(inline_weight()).SerializeToString()
    path = tmp_path / "twice.onnx"
    path.write_bytes(content + ModelProto(graph=onnx.GraphProto(name="b")).SerializeToString())
    assert "comes twice" in refusal(path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, product_model(inline_weight()))
    path.write_bytes(path.read_bytes().replace(b"product", b"pr\xff\xfeuct"))
    assert "codec can't decode" in refusal(path)


# --- external data


def external(folder: Path, **entries: str) -> Path:
    return write(folder, product_model(external_weight(**entries)))


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(40))
    model = read_model(external(tmp_path, location="sub/w.bin", offset="16", length="24"))
    assert model.external_files == ("sub/w.bin",)
    assert read_model(external(tmp_path, location="sub/w.bin")).weight_bytes == 24


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "sub/../../w.bin",
        "/etc/passwd",
        "..\\w.bin",
        "sub\\w.bin",
        "C:\\w.bin",
        "C:w.bin",
        "//host/share/w.bin",
        "w\0.bin",
        "",
        ".",
        "..",
    ],
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(24))
    message = refusal(external(tmp_path / "model", location=location))
    assert "not a plain path below the model's folder" in message


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    message = refusal(external(tmp_path, location="w.bin"))
    assert "'w.bin' is missing" in message
    assert "keep the model's data files beside it" in message


def test_links_and_odd_files_are_refused_as_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(24))
    (folder / "soft").symlink_to(secret)
    (folder / "way").symlink_to(tmp_path, target_is_directory=True)
    (folder / "hard").hardlink_to(secret)
    (folder / "folder").mkdir()
    assert "symbolic link" in refusal(external(folder, location="soft"))
    assert "symbolic link" in refusal(external(folder, location="way/secret"))
    assert "2 hard links" in refusal(external(folder, location="hard"))
    assert "not a regular file" in refusal(external(folder, location="folder"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
        assert "not a regular file" in refusal(external(folder, location="pipe"))


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"offset": "20", "length": "24"}, "needs bytes 20 to 44 of 'w.bin', which has 40"),
        ({"offset": "20"}, "needs bytes 20 to 44"),
        ({"length": "32"}, "takes 24 bytes, but states 32"),
        ({"length": "8"}, "takes 24 bytes, but states 8"),
        ({"offset": "-4"}, "external offset '-4'; legal: 0 to 2^63"),
        ({"length": "-24"}, "external length '-24'"),
        ({"offset": "9" * 4000}, "external offset '999"),
        ({"offset": "0x10"}, "external offset '0x10'"),
        ({"offset": "\u0661"}, "external offset"),
    ],
)
def test_ranges_outside_the_file_are_refused(
    tmp_path: Path, entries: dict[str, str], what: str
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(40))
    assert what in refusal(external(tmp_path, location="w.bin", **entries))


def test_contradicting_or_missing_entries_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(40))
    tensor = external_weight(location="w.bin")
    tensor.external_data.add(key="location", value="other.bin")
    assert "states its external 'location' twice" in refusal(write(tmp_path, product_model(tensor)))
    assert "names no file" in refusal(external(tmp_path, offset="0"))


def test_external_data_of_a_constant_in_a_branch_is_checked_too(tmp_path: Path) -> None:
    model = product_model(inline_weight())
    constant = helper.make_node("Constant", [], ["c"], value=external_weight(location="../w.bin"))
    body = helper.make_graph(
        [constant], "then", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 3])]
    )
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=body))
    assert "not a plain path" in refusal(write(tmp_path, model))


# --- anything at all


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.onnx"


def read_or_refuse(path: Path, content: bytes) -> str:
    """What was said against the content; empty when it was read as a model with all it needs."""
    path.write_bytes(content)
    try:
        model = read_model(path)
    except ModelError as exc:
        return str(exc)
    assert model.nodes
    assert model.outputs
    model.to_json()
    return ""


edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8)


@given(edits=edits, keep=st.floats(0, 1) | st.just(1.0))
@settings(deadline=None, max_examples=150)
def test_a_damaged_model_is_read_or_refused(
    small_cnn: Path, scratch: Path, edits: list[tuple[float, int]], keep: float
) -> None:
    content = bytearray(small_cnn.read_bytes())
    for place, value in edits:
        content[int(place * (len(content) - 1))] = value
    read_or_refuse(scratch, bytes(content[: int(keep * len(content))]))


@given(edits=edits)
@settings(deadline=None, max_examples=200)
def test_a_model_damaged_in_its_graph_is_read_or_refused(
    scratch: Path, edits: list[tuple[float, int]]
) -> None:
    content = bytearray(product_model(inline_weight()).SerializeToString())
    for place, value in edits:
        content[int(place * (len(content) - 1))] = value
    read_or_refuse(scratch, bytes(content))


@given(content=st.binary(max_size=400))
@example(b"\x3a\x00")
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x08" * 400)
@example(b"\x3b" * 400)
@settings(deadline=None, max_examples=200)
def test_random_bytes_are_refused(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    with pytest.raises(ModelError):
        read_model(scratch)


def test_every_truncation_of_a_small_model_is_refused(scratch: Path) -> None:
    content = product_model(inline_weight()).SerializeToString()
    for end in range(len(content)):
        assert read_or_refuse(scratch, content[:end])
