"""What a person would make by hand: single variants with each library's own tools, for comparison.

Nothing of edgesdk's compression is used here. Every variant is built in a child process, because some
of them crash or hang on some models; that is then the variant's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgesdk.samples import SampleSet

CALIBRATION_ROWS = 100
Request = dict[str, Any]

VARIANTS: dict[str, tuple[str, str]] = {
    "ort fp32": ("onnxruntime", "fp32"),
    "ort dynamic int8": ("onnxruntime", "fp32"),
    "ort static int8": ("onnxruntime", "fp32"),
    "ov f32": ("openvino", "fp32"),
    "ov bf16 (its default)": ("openvino", "bf16"),
    "ov nncf int8": ("openvino", "bf16"),
    "ov nncf int8 mixed transformer": ("openvino", "bf16"),
    "ov nncf int8 weights": ("openvino", "bf16"),
    "ov nncf int4 weights": ("openvino", "bf16"),
}
"""Backend and execution type of each variant."""


def build(request: Request) -> Request:
    """`name`, `model`, `calibration` -> `path` of the artifact."""
    rows = SampleSet.from_json(request["calibration"]).subset(CALIBRATION_ROWS)
    out = Path("files")
    out.mkdir()
    path = _MAKERS[request["name"]](Path(request["model"]), rows, out)
    return {"path": str(path)}


def _ort_fp32(model: Path, rows: SampleSet, out: Path) -> Path:
    del rows
    target = out / "model.onnx"
    target.write_bytes(model.read_bytes())
    return target


def _ort_dynamic(model: Path, rows: SampleSet, out: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del rows
    target = out / "model.onnx"
    quantize_dynamic(
        model,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
        extra_options={"MatMulConstBOnly": True},
    )
    return target


def _ort_static(model: Path, rows: SampleSet, out: Path) -> Path:
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self.rows = iter(rows)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.rows, None)
            return None if sample is None else sample.inputs

    graph = onnx.load(model)
    if max(item.version for item in graph.opset_import if item.domain == "") < 13:
        graph = version_converter.convert_version(graph, 17)
    onnx.save(graph, out / "upgraded.onnx")
    clean = out / "clean.onnx"
    quant_pre_process(out / "upgraded.onnx", clean, skip_symbolic_shape=True)
    target = out / "model.onnx"
    quantize_static(clean, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    clean.unlink()
    (out / "upgraded.onnx").unlink()
    return target


def _openvino(change: Callable[[Any, SampleSet], Any]) -> Callable[[Path, SampleSet, Path], Path]:
    def make(model: Path, rows: SampleSet, out: Path) -> Path:
        import openvino

        network = change(openvino.Core().read_model(model), rows)
        target = out / "model.xml"
        openvino.save_model(network, target, compress_to_fp16=False)
        return target

    return make


def _feeds(rows: SampleSet) -> Iterator[dict[str, Any]]:
    for sample in rows:
        yield sample.inputs


def _nncf(**options: str) -> Callable[[Any, SampleSet], Any]:
    def change(network: Any, rows: SampleSet) -> Any:
        import nncf

        settings: dict[str, Any] = {}
        if "preset" in options:
            settings["preset"] = nncf.QuantizationPreset(options["preset"])
        if "model_type" in options:
            settings["model_type"] = nncf.ModelType(options["model_type"])
        data = nncf.Dataset(list(_feeds(rows)))
        return nncf.quantize(network, data, subset_size=len(rows), **settings)

    return change


def _weights(mode: str, **options: Any) -> Callable[[Any, SampleSet], Any]:
    def change(network: Any, rows: SampleSet) -> Any:
        import nncf

        del rows
        return nncf.compress_weights(network, mode=nncf.CompressWeightsMode(mode), **options)

    return change


_MAKERS: dict[str, Callable[[Path, SampleSet, Path], Path]] = {
    "ort fp32": _ort_fp32,
    "ort dynamic int8": _ort_dynamic,
    "ort static int8": _ort_static,
    "ov f32": _openvino(lambda network, _: network),
    "ov bf16 (its default)": _openvino(lambda network, _: network),
    "ov nncf int8": _openvino(_nncf()),
    "ov nncf int8 mixed transformer": _openvino(_nncf(preset="mixed", model_type="transformer")),
    "ov nncf int8 weights": _openvino(_weights("int8_asym")),
    "ov nncf int4 weights": _openvino(_weights("int4_asym", group_size=64, ratio=1.0)),
}
