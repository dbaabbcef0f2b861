"""Trained weights back into the graph that they came from; nothing else of it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgesdk.compress import onnx_io
from edgesdk.errors import ModelError
from edgesdk.train.operators.quantized import dequantize_linear, spread
from edgesdk.train.stored_tensors import stored_tensors
from edgesdk.train.types import HALVES, limits, stored, to_torch

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgesdk.train.blocks import QuantizedWeight
    from edgesdk.train.reader import OnnxModule

    Array = NDArray[Any]


def with_weights(module: OnnxModule, proto: ModelProto) -> ModelProto:
    """A copy of a model with the weights of a module that was read from it.

    Every tensor keeps its name, shape and type: float16 is rounded to (the largest finite value
    stands for what is beyond it), integers are rounded anew from their float form. What training
    did not change keeps its bytes.

    Args:
        module: was made of this model, or of one with the same names and shapes.
        proto: with its weights in memory; not changed.

    Raises:
        ModelError: a weight of the module is not in the model, or has another shape there.
    """
    copy = type(proto)()
    copy.CopyFrom(proto)
    tensors = {one.key: one.tensor for one in stored_tensors(copy.graph)}
    for key, weight in module.weights.items():
        if key not in tensors:
            raise ModelError(f"weight {key!r} is not stored in the model it is to be written to")
        if tuple(tensors[key].dims) != tuple(weight.shape):
            raise ModelError(
                f"weight {key!r} has shape {tuple(weight.shape)}, in the model "
                f"{tuple(tensors[key].dims)}"
            )
    old = {one.key: one.tensor for one in stored_tensors(proto.graph)}
    for key in module.weights:
        if key not in module.quantized:
            _store(tensors[key], _as_stored(module.value_of(key).detach().numpy(), old[key]))
    for key in module.tied:
        _store(tensors[key], _as_stored(module.value_of(key).detach().numpy(), old[key]))
    for key, how in module.quantized.items():
        _store(tensors[key], _integers(module, key, how, old))
    return copy


def write_trained(module: OnnxModule, source: Path, target: Path) -> Path:
    """Write the model at `source` with trained weights to `target`.

    A model with external data gets a data file of its own beside the target.

    Raises:
        ModelError: as `with_weights`.
    """
    had_files = bool(onnx_io.external_files(onnx_io.read_structure(source)))
    trained = with_weights(module, onnx_io.read_whole(source))
    if not had_files:
        return onnx_io.write(trained, target)
    import onnx

    target.parent.mkdir(parents=True, exist_ok=True)
    place = f"{target.name}.data"
    (target.parent / place).unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(
        trained, target, save_as_external_data=True, all_tensors_to_one_file=True, location=place
    )
    return target


def _store(tensor: TensorProto, array: Array | None) -> None:
    """Give a stored tensor other values; None leaves it as it is."""
    if array is None:
        return
    fresh = numpy_helper.from_array(array, tensor.name)
    if fresh.data_type != tensor.data_type or list(fresh.dims) != list(tensor.dims):
        raise ModelError(f"tensor {tensor.name!r} would change its type or shape")
    fresh.doc_string = tensor.doc_string
    tensor.CopyFrom(fresh)


def _as_stored(values: Array, tensor: TensorProto) -> Array | None:
    """Float values in the type of a stored tensor; None when they are what it holds."""
    before = stored(tensor)
    wanted = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if tensor.data_type in HALVES:
        largest = _largest(tensor.data_type)
        values = np.clip(values, -largest, largest)
    after = np.asarray(values.astype(wanted))
    return None if after.tobytes() == before.astype(wanted).tobytes() else after


def _largest(kind: int) -> float:
    return 65504.0 if kind == TensorProto.FLOAT16 else 3.3895313892515355e38


def _integers(
    module: OnnxModule, key: str, how: QuantizedWeight, old: dict[str, TensorProto]
) -> Array | None:
    """The integers nearest to a trained weight, at the scale that is trained or stored."""
    import torch

    before = stored(old[key])
    scale = module.value_of(how.scale).detach()
    zero = module.value_of(how.zero) if how.zero else None
    master = module.weights[key].detach()
    start = dequantize_linear(how.call, to_torch(before), to_torch(stored(old[how.scale])), zero)
    same_scale = torch.equal(scale, to_torch(stored(old[how.scale])))
    changed = (master != start).numpy() if same_scale else np.ones(before.shape, bool)
    if not changed.any():
        return None
    step, offset = spread(how.call, master, scale.double(), zero)
    bounds = limits(old[key].data_type)
    if bounds is None:
        raise ModelError(f"weight {key!r} is stored in a type that is not quantized to")
    exact = torch.clamp(torch.round(master.double() / step) + offset, *bounds).numpy()
    rounded = exact.astype(helper.tensor_dtype_to_np_dtype(old[key].data_type))
    return np.where(changed, rounded, before)
