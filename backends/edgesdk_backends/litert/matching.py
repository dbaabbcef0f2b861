"""Finding out how a TFLite file and its model fit together, by names and shapes, and proving it by a run.

The proof is a random input on which the file must give what onnxruntime (or, without it, ONNX's
reference evaluator) gives for the model. Two inputs of one shape that were exchanged, channels moved
where they should not be, or a wrong operation are thereby found when converting, not in the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.backend import Array
from edgesdk.errors import EdgeSdkError, StepFailed
from edgesdk.signature import Dim, TensorInfo
from edgesdk_backends.litert.engine import Engine, Tensor
from edgesdk_backends.litert.interface import Interface, Port
from edgesdk_backends.litert.origins import find_origins

if TYPE_CHECKING:
    import onnx

Feed = dict[str, Array]

TOLERANCE = 1e-3
"""Of the largest value of an output: float32 sums in another order stay far below, and any mistake in
layout or order is far above."""
_SAME_INTEGERS = 0.95
"""Share of an integer output that must be equal: an ArgMax over near ties may differ."""
_MOST_WAYS = 64
_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
"""Axes of channels-first tensors in the order of channels last."""
_LENGTHS = ((1, 32, 64), (3, 48, 96))
"""For open axes: the first axis, a second or only other one, any later one; two sets of them."""


def find_interface(model: Path, file: Path) -> Interface:
    """How the TFLite file computes the model.

    Where axes are open it is run with two sets of lengths, and so is proven to take more than one.

    Raises:
        StepFailed: it computes something else, or cannot be run with the lengths that the model has
            open; or nothing can run the model to compare with.
    """
    graph = _graph(model)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [_info(value) for value in graph.input if value.name not in stored]
    outputs = [_info(value) for value in graph.output]
    is_open = not all(info.is_static for info in inputs)
    reference = _reference(model)
    trials = []
    for lengths in _LENGTHS[: 2 if is_open else 1]:
        feed = _runnable(inputs, lengths, reference)
        trials.append((feed, dict(zip([o.name for o in outputs], reference(feed), strict=True))))
    engine = Engine(file)
    try:
        given, gives = _fitting(engine, inputs, outputs, trials)
        origins = find_origins(graph, engine)
    finally:
        engine.close()
    return Interface(inputs=given, outputs=gives, origins=origins)


def _fitting(
    engine: Engine,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    trials: Sequence[tuple[Feed, Feed]],
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The first way, the most likely coming first, in which all trials come out right."""
    feed, expected = trials[0]
    why = "no way to give it the model's inputs"
    for given in islice(_ways(engine.inputs, inputs, feed), _MOST_WAYS):
        try:
            found = engine.run(_given(given, feed))
        except EdgeSdkError as exc:
            why = str(exc)
            continue
        gives, wrong = _gives(outputs, expected, found, engine.outputs)
        if wrong:
            why = wrong
            continue
        later = _differs(engine, given, gives, trials[1:])
        if later:
            raise StepFailed(
                f"the model's input shapes are open, and its TFLite form cannot be resized: {later}; "
                "give samples that all have one shape, so that it is fixed"
            )
        return given, gives
    raise StepFailed(f"the TFLite form does not compute what the model does: {why}")


def _differs(
    engine: Engine,
    given: Sequence[Port],
    gives: Sequence[Port],
    trials: Sequence[tuple[Feed, Feed]],
) -> str:
    for feed, expected in trials:
        try:
            found = engine.run(_given(given, feed))
        except EdgeSdkError as exc:
            return str(exc)
        for port in gives:
            wrong = _error(expected[port.info.name], port.from_file(found[port.tensor]))
            if wrong:
                return f"output {port.info.name!r} {wrong}"
    return ""


def _given(ports: Sequence[Port], feed: Feed) -> Feed:
    return {port.tensor: port.to_file(feed[port.info.name]) for port in ports if port.tensor}


def _ways(
    there: Mapping[str, Tensor], inputs: Sequence[TensorInfo], feed: Feed
) -> Iterator[tuple[Port, ...]]:
    """Assignments of the file's inputs to the model's: by name first, then any that the shapes allow."""
    names = [info.name for info in inputs]
    by_name = [name if name in there else "" for name in names]
    orders: list[Sequence[str]] = [by_name]
    if len(there) <= len(names) <= 6:
        padded = [*there, *[""] * (len(names) - len(there))]
        orders += [order for order in permutations(padded) if list(order) != by_name]
    for order in orders:
        if {name for name in order if name} != set(there):
            continue  # some input of the file would get nothing
        choices = [
            list(_ports(info, name, there.get(name), feed[info.name].shape))
            for info, name in zip(inputs, order, strict=True)
        ]
        yield from product(*choices)


def _ports(
    info: TensorInfo, name: str, tensor: Tensor | None, shape: tuple[int, ...]
) -> Iterator[Port]:
    """Ways in which a value of this shape can be that tensor of the file."""
    if tensor is None:
        yield Port(info=info, tensor="", dtype=info.dtype)
        return
    plain = Port(info=info, tensor=name, dtype=tensor.dtype)
    there = tensor.shape
    if len(there) != len(shape):
        if info.is_static and np.prod(there, dtype=int) == np.prod(shape, dtype=int):
            yield Port(info=info, tensor=name, dtype=tensor.dtype, shape=there)
        return
    if _may_be(there, shape, info.shape):
        yield plain
    axes = _LAST.get(len(shape), ())
    if axes and _may_be(there, [shape[axis] for axis in axes], [info.shape[axis] for axis in axes]):
        yield Port(info=info, tensor=name, dtype=tensor.dtype, axes=axes)


def _may_be(there: Sequence[int], shape: Sequence[int], dims: Sequence[Dim]) -> bool:
    """Whether lengths agree where the model fixes them."""
    return all(
        have in (want, -1) or not isinstance(dim, int)
        for have, want, dim in zip(there, shape, dims, strict=True)
    )


def _gives(
    outputs: Sequence[TensorInfo], expected: Feed, found: Feed, there: Mapping[str, Tensor]
) -> tuple[tuple[Port, ...], str]:
    """Where each output of the model is among those of the file; or what is wrong."""
    ports = []
    for info in outputs:
        want = expected[info.name]
        whole = TensorInfo(
            name=info.name,
            dtype=want.dtype.name,
            shape=info.shape if len(info.shape) == want.ndim else (None,) * want.ndim,
        )
        candidates = [info.name] if info.name in found else list(found)
        wrong = "it is not among the outputs"
        for port in _outgoing(whole, candidates, found, there, want):
            wrong = _error(want, port.from_file(found[port.tensor]))
            if not wrong:
                ports.append(port)
                break
        else:
            return (), f"output {info.name!r} {wrong}"
    return tuple(ports), ""


def _outgoing(
    info: TensorInfo,
    names: Sequence[str],
    found: Feed,
    there: Mapping[str, Tensor],
    want: Array,
) -> Iterator[Port]:
    for name in names:
        shape, dtype = found[name].shape, there[name].dtype
        if shape == want.shape:
            yield Port(info=info, tensor=name, dtype=dtype)
        axes = _LAST.get(len(shape), ())
        back = tuple(int(axis) for axis in np.argsort(axes))
        if axes and tuple(shape[axis] for axis in back) == want.shape:
            yield Port(info=info, tensor=name, dtype=dtype, axes=back)
        if len(shape) != want.ndim and found[name].size == want.size and not want.ndim:
            yield Port(info=info, tensor=name, dtype=dtype, shape=shape)


def _error(want: Any, got: Any) -> str:
    """What is wrong with an output, or nothing."""
    if want.shape != got.shape:
        return f"has shape {list(got.shape)}, not {list(want.shape)}"
    if want.dtype.kind not in "fc":
        same = float(np.mean(want == got)) if want.size else 1.0
        return "" if same >= _SAME_INTEGERS else f"is equal in {same:.0%} of its values only"
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)):
        return "is not finite in the same places"
    largest = float(np.abs(want[finite]).max(initial=0.0))
    error = float(np.abs(want[finite] - got[finite]).max(initial=0.0))
    limit = TOLERANCE * max(largest, 1e-6)
    return "" if error <= limit else f"is {error:.3g} off, where its largest value is {largest:.3g}"


def _runnable(
    inputs: Sequence[TensorInfo],
    lengths: tuple[int, int, int],
    reference: Callable[[Feed], list[Array]],
) -> Feed:
    """A random feed that the model runs on: integers are 0 or 1, else all 1 or all 0."""
    why: Exception | None = None
    for how in ("random", "ones", "zeros"):
        feed = _feed(inputs, lengths, how)
        try:
            reference(feed)
        except Exception as exc:  # both evaluators raise anything
            why = exc
            continue
        return feed
    raise StepFailed(
        f"the conversion cannot be proven: the model does not run on made-up inputs ({why})"
    ) from why


def _feed(inputs: Sequence[TensorInfo], lengths: tuple[int, int, int], how: str) -> Feed:
    rng = np.random.default_rng(0)
    known: dict[str, int] = {}
    feed: Feed = {}
    for info in inputs:
        shape = []
        for axis, dim in enumerate(info.shape):
            length = lengths[0 if axis == 0 else 1 if len(info.shape) < 4 else 2]
            if isinstance(dim, str):
                length = known.setdefault(dim, length)
            shape.append(dim if isinstance(dim, int) else length)
        dtype = np.dtype(info.dtype)
        if dtype.kind == "f":
            feed[info.name] = rng.normal(size=shape).astype(dtype)
        elif how == "random":
            feed[info.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feed[info.name] = np.full(shape, how == "ones").astype(dtype)
    return feed


def _reference(model: Path) -> Callable[[Feed], list[Array]]:
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        evaluator: Any = ReferenceEvaluator(str(model))
    else:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            evaluator = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # its classes have no common base
            raise StepFailed(f"onnxruntime cannot load the model to compare with: {exc}") from exc
    return lambda feed: [np.asarray(value) for value in evaluator.run(None, feed)]


def _graph(model: Path) -> onnx.GraphProto:
    from edgesdk.onnxfile.open import open_onnx

    return open_onnx(model).proto.graph


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    dims: tuple[Dim, ...] = tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in tensor.shape.dim
    )
    dtype = tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorInfo(name=value.name, dtype=dtype, shape=dims)
