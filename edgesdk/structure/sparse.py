"""Weights set to zero one by one: by magnitude, by what they do to real rows, or N of every M.

What is least important goes first: |w|, or |w| times the root mean square of what it is multiplied by
(Wanda: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2023). The
pattern N:M leaves at most N of M neighbours along the input channels, as sparse tensor cores take
them (2:4: Mishra et al., Accelerating Sparse Deep Neural Networks, 2021). Zeros shrink what is stored
compressed; whether they save time depends on the runtime, which `edgesdk.plan.sparsity` tells.

Symmetric quantization keeps zero exactly, so zeros and patterns survive all recipes with integers.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.weights import SMALL
from edgesdk.errors import InputError
from edgesdk.structure.layers import Layer
from edgesdk.structure.moments import observe_channel_moments
from edgesdk.structure.net import Net

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.structure.reference import Reference

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

Scope = Literal["global", "layer", "output"]
"""Among which weights the least important are found: all, those of a layer, those of one output."""
TWO_OF_FOUR = (2, 4)
_LEVEL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What came out.

    Attributes:
        proto: the model.
        zeros: share of zeros by node name, for each layer that was pruned.
        left: names of other layers, each with the reason.
    """

    proto: onnx.ModelProto
    zeros: Mapping[str, float]
    left: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a model takes, in bytes.

    Attributes:
        dense: all tensors and the graph.
        deflated: the same in a zip file.
        sparse: each weight in the smaller of its dense form and a bit for each place with the
            values that are not zero; what a runtime with such a format would store.
    """

    dense: int
    deflated: int
    sparse: int


def prune(
    net: Net,
    share: float,
    *,
    scope: Scope = "layer",
    norms: Mapping[str, Floats] | None = None,
    nodes: Sequence[str] | None = None,
) -> Pruned:
    """Zero a share of the weights, the least important first.

    Depthwise and grouped convolutions, batch normalizations, and weights with fewer than 256
    values are left alone.

    Args:
        net: the model; changed in place.
        share: of the weights of the layers that are pruned, from 0 to below 1.
        scope: among which weights the least important are found.
        norms: what `input_norms` found, for the importance of its layers; |w| for others.
        nodes: names of layers; all of them unless given.

    Raises:
        InputError: the share is outside of its range.
    """
    if not 0 <= share < 1:
        raise InputError(f"a share of {share} of weights to zero; legal: 0 up to, not with, 1")
    chosen, left = _chosen(net, nodes)
    scores = {layer.node: _scores(net, layer, norms) for layer in chosen}
    if scope == "global" and scores:
        everything = np.concatenate([values.reshape(-1) for values in scores.values()])
        kept = _largest(everything[None], share)[0]
        stops = np.cumsum([values.size for values in scores.values()])[:-1]
        masks = dict(zip(scores, np.split(kept, stops), strict=True))
    else:
        masks = {
            name: _largest(values.T if scope == "output" else values.reshape(1, -1), share)
            for name, values in scores.items()
        }
        if scope == "output":
            masks = {name: mask.T for name, mask in masks.items()}
    return _zeroed(net, chosen, masks, left)


def prune_pattern(
    net: Net,
    pattern: tuple[int, int] = TWO_OF_FOUR,
    *,
    norms: Mapping[str, Floats] | None = None,
    nodes: Sequence[str] | None = None,
) -> Pruned:
    """Leave at most N of every M neighbours along the input channels of each output and tap.

    Layers whose channels are no multiple of M are left alone, as are those that `prune` leaves.

    Args:
        net: the model; changed in place.
        pattern: N and M, 0 < N < M.
        norms: what `input_norms` found, for the importance of its layers; |w| for others.
        nodes: names of layers; all of them unless given.

    Raises:
        InputError: no such pattern.
    """
    most, length = pattern
    if not 0 < most < length:
        raise InputError(f"pattern {most}:{length}; legal: 0 < N < M, such as 2:4")
    chosen, left = _chosen(net, nodes)
    masks = {}
    fitting = []
    for layer in chosen:
        if layer.channels % length:
            left[layer.node] = f"its {layer.channels} input channels are no multiple of {length}"
            continue
        scores = _scores(net, layer, norms).reshape(layer.channels, -1)
        blocks = scores.reshape(-1, length, scores.shape[1])
        order = np.argsort(np.argsort(-blocks, axis=1, kind="stable"), axis=1, kind="stable")
        masks[layer.node] = order < most
        fitting.append(layer)
    return _zeroed(net, fitting, masks, left)


def input_norms(
    model: Reference, net: Net, samples: SampleSet, rows: Sequence[int]
) -> dict[str, Floats]:
    """Root mean square of each input channel: float64[channels] by node name.

    Args:
        model: the same as `net`, as it runs.
        net: the model.
        samples: rows; their shapes may vary.
        rows: which of them; at least one.

    Raises:
        SamplesError: there are no rows.
    """
    layers = [layer for layer in _chosen(net, None)[0] if model.has(layer.source)]
    axes = {layer.source: 1 if layer.op == "Conv" else -1 for layer in layers}
    known = observe_channel_moments(model, axes, samples, rows)
    return {
        layer.node: np.sqrt(known[layer.source].variance + known[layer.source].mean ** 2)
        for layer in layers
    }


def sizes(proto: onnx.ModelProto) -> Sizes:
    """What a model with its weights in memory takes dense, zipped and in a sparse format."""
    from onnx import numpy_helper

    shell = type(proto)()
    shell.CopyFrom(proto)
    dense = deflated = sparse = 0
    for tensor in onnx_io.tensors(shell.graph):
        values = numpy_helper.to_array(tensor)
        content = values.tobytes()
        kept = int(np.count_nonzero(values)) * values.itemsize + -(-values.size // 8)
        dense += len(content)
        deflated += len(zlib.compress(content, _LEVEL))
        sparse += min(len(content), kept)
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(field)
    graph = shell.SerializeToString()
    return Sizes(
        dense=dense + len(graph),
        deflated=deflated + len(zlib.compress(graph, _LEVEL)),
        sparse=sparse + len(graph),
    )


def _chosen(net: Net, nodes: Sequence[str] | None) -> tuple[list[Layer], dict[str, str]]:
    """The layers to prune, and why others are left alone."""
    wanted = net.layers if nodes is None else {name: net.layers[name] for name in nodes}
    left = {name: why for name, why in net.left.items() if nodes is None or name in nodes}
    chosen = []
    for name, layer in wanted.items():
        if layer.op == "BatchNormalization":
            continue
        if layer.groups > 1:
            left[name] = f"it has {layer.groups} groups, each of few weights"
        elif layer.parameters < SMALL:
            left[name] = f"it has {layer.parameters} weights; {SMALL} are the fewest that matter"
        else:
            chosen.append(layer)
    return chosen, left


def _scores(net: Net, layer: Layer, norms: Mapping[str, Floats] | None) -> Floats:
    """Importance, float64[features, outputs]."""
    scores: Floats = np.abs(net.matrix(layer)[0])
    norm = (norms or {}).get(layer.node)
    if norm is None:
        return scores
    return np.asarray(scores * np.repeat(norm, layer.features // layer.channels)[:, None])


def _largest(scores: Floats, share: float) -> Mask:
    """True where a value is not among that share of the least ones of its row."""
    count = round(share * scores.shape[1])
    kept = np.ones(scores.shape, bool)
    if count:
        least = np.argpartition(scores, count - 1, axis=1)[:, :count]
        np.put_along_axis(kept, least, False, axis=1)
    return kept


def _zeroed(
    net: Net, layers: Sequence[Layer], masks: Mapping[str, Mask], left: Mapping[str, str]
) -> Pruned:
    zeros = {}
    for layer in layers:
        matrix = net.matrix(layer)
        matrix = np.where(masks[layer.node].reshape(matrix.shape), matrix, 0.0)
        net.write(layer, matrix)
        zeros[layer.node] = float((matrix == 0).mean())
    return Pruned(proto=net.proto, zeros=zeros, left=dict(left))
