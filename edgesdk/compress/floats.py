"""Float types: a float16 graph."""

from __future__ import annotations

from pathlib import Path

from edgesdk.compress import onnx_io


def to_float16(model: Path, target: Path, kept: frozenset[str]) -> None:
    """Write the model computing in float16, except at `kept`; its inputs and outputs still float32.

    Operators without a float16 form keep float32 between casts, as onnxruntime's converter lists
    them. Uses that converter because the one of onnxconverter-common wrote files that do not load
    for every attention and control-flow model tried.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(
        onnx_io.read_whole(model), keep_io_types=True, node_block_list=sorted(kept)
    )
    onnx_io.write(half, target)
