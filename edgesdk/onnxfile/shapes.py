"""Shapes of every tensor of a graph, by onnx's shape inference in a child process.

onnx's inference is native code that has crashed on crafted graphs, so it runs apart, with limits on
time and memory. It also gives up where a shape is itself computed (Shape, Slice, Concat, Reshape);
such small integer sums are worked out with onnx's reference operators and inference goes on.

Run as a module, this reads a model from stdin and writes it, with its shapes, to stdout.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgesdk.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

    Constants = dict[str, NDArray[np.generic]]

_TIMEOUT_S = 120.0
_MEMORY_BYTES = 8 << 30
"""Address space, most of which the imported libraries only reserve."""
_SMALL = 128
"""Elements up to which a tensor is taken for a shape; `wire.KEEP_BYTES` holds as many int64."""
_ROUNDS = 32
"""Each round resolves what lies behind the last computed shape."""
_FOLDABLE = frozenset(
    (
        *(
            "Abs",
            "Add",
            "And",
            "Cast",
            "Ceil",
            "Concat",
            "ConstantOfShape",
            "Div",
            "Equal",
            "Expand",
        ),
        *(
            "Floor",
            "Gather",
            "Greater",
            "Identity",
            "Less",
            "Max",
            "Min",
            "Mod",
            "Mul",
            "Neg",
            "Not",
        ),
        *("Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape"),
        *("Slice", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"),
    )
)

NEVER_RUNS = "edgesdk: never runs"
"""Name that `infer` gives a branch which the input shapes rule out; it is left without nodes."""


def infer(model: ModelProto) -> ModelProto:
    """The model with a `value_info` for every tensor whose shape can be told.

    Nodes may be replaced by constants, and branches that never run are emptied (`NEVER_RUNS`); else
    number, order and output names of nodes stay.

    Args:
        model: without its weights.

    Raises:
        ModelError: the inference crashed, hung, or ran out of memory.
    """
    from onnx import ModelProto

    # -P: modules in the working folder must not stand in for libraries.
    command = [sys.executable, "-P", "-m", "edgesdk.onnxfile.shapes"]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            input=model.SerializeToString(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelError(
            f"shape inference did not end within {_TIMEOUT_S:.0f} s; the graph is beyond what onnx "
            "can analyse"
        ) from exc
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"it ended with status {done.returncode}"
        raise ModelError(f"onnx cannot infer the shapes of this graph: {why[:500]}")
    inferred: ModelProto = ModelProto.FromString(done.stdout)
    return inferred


def shape_of(info: ValueInfoProto) -> tuple[int, ...] | None:
    """The shape of a tensor, or None unless every axis has a fixed length."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    dims = tuple(dim.dim_value for dim in tensor.shape.dim)
    return dims if all(dim >= 0 for dim in dims) else None


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node: branches and loop bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def infer_and_fold(model: ModelProto) -> ModelProto:
    """`infer` in this process: for one that is itself a step with limits; the argument may be changed."""
    from onnx.shape_inference import infer_shapes

    opsets = {opset.domain: opset.version for opset in model.opset_import}
    _forget_symbols(model.graph)
    for _ in range(_ROUNDS):
        model = infer_shapes(model, data_prop=True)
        if not _fold(model.graph, {}, {}, opsets):
            break
    return model


def _forget_symbols(graph: GraphProto) -> None:
    """Drop symbolic lengths that the exporter noted: inference would keep them for fixed ones."""
    for info in (*graph.value_info, *graph.output):
        for dim in info.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    for node in graph.node:
        for inner in subgraphs(node):
            _forget_symbols(inner)


def _fold(
    graph: GraphProto,
    outer: Constants,
    outer_shapes: Mapping[str, tuple[int, ...]],
    opsets: Mapping[str, int],
) -> int:
    """Replace nodes that compute small constants by these; returns how many were replaced."""
    from onnx import numpy_helper

    folded = _bring_in(graph, outer)
    constants = dict(outer)
    for tensor in graph.initializer:
        if _is_small(tensor):
            constants[tensor.name] = numpy_helper.to_array(tensor)
    shapes = dict(outer_shapes)
    for info in (*graph.input, *graph.value_info, *graph.output):
        shape = shape_of(info)
        if shape is not None:
            shapes[info.name] = shape
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            if _is_small(node.attribute[0].t):
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        value = _evaluate(node, constants, shapes, opsets)
        if value is not None:
            constants[node.output[0]] = value
            _replace_by_constant(node, value)
            folded += 1
            continue
        if node.op_type == "If" and node.input[0] in constants:
            folded += _settle_branch(node, bool(constants[node.input[0]].all()))
        for inner in subgraphs(node):
            folded += _fold(inner, constants, shapes, opsets)
    return folded


def _bring_in(graph: GraphProto, outer: Constants) -> int:
    """Copy outer constants into a subgraph that reads them: onnx looks for values only there."""
    from onnx import numpy_helper

    own = {tensor.name for tensor in graph.initializer}
    wanted = {name for node in graph.node for name in node.input} & outer.keys() - own
    graph.initializer.extend(numpy_helper.from_array(outer[name], name) for name in sorted(wanted))
    return len(wanted)


def _is_small(tensor: TensorProto) -> bool:
    inside = tensor.data_location != tensor.EXTERNAL
    return inside and math.prod(tensor.dims) <= _SMALL


def _evaluate(
    node: NodeProto,
    constants: Constants,
    shapes: Mapping[str, tuple[int, ...]],
    opsets: Mapping[str, int],
) -> NDArray[np.generic] | None:
    """The value of a node of which everything is known, if it is small."""
    import numpy as np

    if node.domain or len(node.output) != 1:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        dims = shapes[node.input[0]]
        if node.op_type == "Size":
            return np.array(math.prod(dims), np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(dims[ends.get("start", 0) : ends.get("end")], np.int64)
    known = node.op_type in _FOLDABLE and all(not i or i in constants for i in node.input)
    shape = shapes.get(node.output[0])
    if not known or not node.input or shape is None or np.prod(shape, dtype=float) > _SMALL:
        return None
    return _run(node, constants, opsets)


def _run(
    node: NodeProto, constants: Constants, opsets: Mapping[str, int]
) -> NDArray[np.generic] | None:
    import numpy as np
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = sorted({name for name in node.input if name})
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    function = helper.make_function(
        "edgesdk", "fold", names, list(node.output), [node], opset_imports=imports
    )
    try:
        (value,) = ReferenceEvaluator(function).run(
            None, {name: constants[name] for name in names}, attributes={}
        )
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return None  # an operator that its reference cannot compute stays unknown
    return np.asarray(value)


def _replace_by_constant(node: NodeProto, value: NDArray[np.generic]) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)))
    node.CopyFrom(helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor))


def _settle_branch(node: NodeProto, taken: bool) -> int:
    """Empty the branch that never runs, so that the node's outputs have the shapes of the other."""
    branches = {attribute.name: attribute.g for attribute in node.attribute}
    live = branches["then_branch" if taken else "else_branch"]
    dead = branches["else_branch" if taken else "then_branch"]
    if dead.name == NEVER_RUNS and list(dead.output) == list(live.output):
        return 0
    dead.Clear()
    dead.name = NEVER_RUNS
    dead.output.extend(live.output)
    return 1


def main() -> None:
    """The child process: stdin to stdout."""
    from onnx import ModelProto

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:
        pass  # not a POSIX system; the time limit still holds
    model = ModelProto.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(infer_and_fold(model).SerializeToString())


if __name__ == "__main__":
    main()
