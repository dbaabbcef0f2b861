"""The proof that a removal took away exactly what it meant to: the pruned graph equals the masked one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgesdk.structure.groups import count_parameters
from edgesdk.structure.mask import mask
from edgesdk.structure.remove import remove
from edgesdk.structure.units import Selection, Structure

Feed = Mapping[str, NDArray[Any]]


def prove_removal(
    original: onnx.ModelProto,
    structure: Structure,
    selection: Selection,
    feeds: Sequence[Feed],
    *,
    tolerance: float = 1e-4,
) -> onnx.ModelProto:
    """Remove, and assert all that a removal promises; returns the pruned model.

    It is a valid model with the same inputs and outputs, has as many parameters as promised, and on every
    feed computes in onnxruntime what the masked original computes there, to within `tolerance` times the
    largest value of the output (at least 1).
    """
    pruned = remove(original, structure, selection)
    onnx.checker.check_model(pruned, full_check=True)
    assert list(pruned.graph.input) == list(original.graph.input)
    assert list(pruned.graph.output) == list(original.graph.output)
    promised = structure.parameters_without(structure.gone(selection))
    assert count_parameters(pruned.graph) == promised
    silenced = mask(original, structure, selection)
    assert count_parameters(silenced.graph) == structure.parameters
    assert_same_outputs(pruned, silenced, feeds, tolerance=tolerance)
    return pruned


def assert_same_outputs(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    feeds: Sequence[Feed],
    *,
    tolerance: float = 1e-4,
) -> None:
    """Both models compute the same in onnxruntime, with shapes and types, to within the tolerance."""
    one, other = _session(model), _session(reference)
    names = [value.name for value in reference.graph.output]
    for feed in feeds:
        got, wanted = one.run(names, dict(feed)), other.run(names, dict(feed))
        for name, left, right in zip(names, got, wanted, strict=True):
            assert left.shape == right.shape, name
            assert left.dtype == right.dtype, name
            assert np.isfinite(right).all(), name
            if right.size:
                scale = max(1.0, float(np.abs(right).max()))
                error = float(np.abs(left.astype(np.float64) - right).max())
                assert error <= tolerance * scale, f"output {name!r}: {error} off, of {scale}"


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # What a graph computes, not what an optimizer makes of it: fusions round in another order.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
