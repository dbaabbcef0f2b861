"""ONNX to TFLite through onnx2tf. Runs in the converter's own environment; edgesdk never imports it.

Its one argument is a file with {"model": ONNX file, "out": folder}; beside that file it writes
`response.json` with {"path": TFLite file} or {"error": text}.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any


def convert(model: str, out: str) -> str:
    """The TFLite file, float32, every input in the layout that it has in the ONNX file.

    It calls what `onnx2tf -tb flatbuffer_direct` calls, without the command's rewriting of the
    input file and its search for simplifiers.
    """
    import onnx
    from onnx2tf.tflite_builder import export_tflite_model_flatbuffer_direct

    proto = onnx.load(model)
    stored = {tensor.name for tensor in proto.graph.initializer}
    made = export_tflite_model_flatbuffer_direct(
        onnx_graph=proto,
        output_folder_path=out,
        output_file_name="model",
        keep_shape_absolutely_input_names=[
            value.name for value in proto.graph.input if value.name not in stored
        ],
        flatbuffer_direct_show_progress=False,
    )
    return str(made["float32_tflite_path"])


def main(request_file: Path) -> None:
    """Answer one request."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    answer: dict[str, Any]
    try:
        answer = {"path": convert(request["model"], request["out"])}
    except BaseException as exc:  # the border of the process; onnx2tf also raises SystemExit
        traceback.print_exc()
        answer = {"error": f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__}
    (request_file.parent / "response.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
