"""An ONNX graph as a PyTorch module that computes the same and can be trained.

The graph is run node by node as it stands, so whatever its names and shapes are at run time, what
was trained goes back into the very same graph (`write`). Integers that stand for shapes stay integers,
branches are taken by the value of their condition, and QuantizeLinear and DequantizeLinear compute
what the integers will (quantization-aware training on the graph that ships).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper

from edgesdk.compress.exposing import read_by
from edgesdk.errors import ModelError
from edgesdk.train.blocks import (
    Block,
    QuantizedWeight,
    Step,
    UnsupportedOperators,
    domain_of,
    inlined,
    integer_weights,
    plain_value,
    tied_scales,
    trainable_keys,
    unknown_operators,
)
from edgesdk.train.operators import OPERATORS, Call
from edgesdk.train.operators.quantized import dequantize_linear, weight_of
from edgesdk.train.stored_tensors import branches, inner_scope, own_tensors, stored_tensors
from edgesdk.train.types import FLOATS, stored, to_numpy, to_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto
    from torch import Tensor

    Values = MutableMapping[str, Tensor]

_FOLDED_MOST = 1 << 22
"""Values of a tensor that is computed once instead of in every run."""
_SMALLEST_SCALE = 1e-12
_NEVER_FOLDED = frozenset(("If", "Dropout"))
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class _Planned:
    step: Step
    drops: tuple[str, ...]


class OnnxModule(torch.nn.Module):
    """A model that computes as onnxruntime does, within float tolerance.

    Batch normalization keeps the statistics that the model ships with (its scale and bias are
    trained): rows often come one at a time, and what is trained is then what runs on the device.

    Attributes:
        weights: what is trained, by key: the name of the initializer or of the output of the
            Constant; those of branches begin with the branch. Float16 weights are float32 here;
            integer weights behind DequantizeLinear are the floats that are rounded to them.
        quantized: of `weights`, those that are stored as integers.
        tied: keys of scales that are the product of two that are trained.
        input_names, output_names: in the order of the model.
    """

    def __init__(self, proto: ModelProto, *, learn_scales: bool = False) -> None:
        """Read a model whose weights are in memory.

        Args:
            proto: not changed and not kept.
            learn_scales: train the scales of quantizers as well.

        Raises:
            UnsupportedOperators: names all operators that are not known.
            ModelError: sparse weights, or a constant that nothing here computes with.
        """
        super().__init__()
        own = {one.key for one in stored_tensors(proto.graph)}
        proto = inlined(proto)
        graph = proto.graph
        self._opsets = {domain_of(o.domain): o.version for o in proto.opset_import}
        unknown = set(unknown_operators(graph))
        if unknown:
            raise UnsupportedOperators(unknown)
        self.weights: dict[str, torch.nn.Parameter] = {}
        self.quantized: dict[str, QuantizedWeight] = {}
        self._learn_scales = learn_scales
        self.tied: dict[str, tuple[str, str]] = {}
        self._constants: dict[str, str] = {}
        """Keys of what is stored and not trained, and the name of its buffer."""
        self._scales: set[str] = set()
        self._trainable = trainable_keys(graph) & own
        self._kinds: dict[str, int] = {}
        stored_here = {tensor.name for tensor in graph.initializer}
        self.input_names = tuple(v.name for v in graph.input if v.name not in stored_here)
        self.output_names = tuple(value.name for value in graph.output)
        self.output_kinds = {v.name: v.type.tensor_type.elem_type for v in graph.output}
        self._block = self._read(graph, "", {})
        self._plans: dict[frozenset[str], tuple[_Planned, ...]] = {}

    def forward(
        self, inputs: Mapping[str, Tensor], outputs: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Tensors by name.

        Args:
            inputs: by name of the model's inputs; more are ignored.
            outputs: names of tensors outside branches; the model's outputs by default.

        Raises:
            ModelError: an input is missing, there is no such tensor, or a node cannot be computed;
                names it.
        """
        wanted = self.output_names if outputs is None else tuple(outputs)
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise ModelError(f"input {missing[0]!r} is not given; given: {sorted(inputs)}")
        values: dict[str, Tensor] = {name: inputs[name] for name in self.input_names}
        values.update(self._held(self._block))
        self._run(self._plan(frozenset(wanted)), values)
        return {name: values[name] for name in wanted}

    def run(
        self, feed: Mapping[str, NDArray[Any]], outputs: Collection[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The same on arrays, without gradients, in the types that the model declares."""
        tensors = {name: to_torch(feed[name]) for name in self.input_names if name in feed}
        with torch.no_grad():
            found = self(tensors, outputs)
        return {
            name: to_numpy(value, self.output_kinds.get(name, 0)) for name, value in found.items()
        }

    @property
    def inner_names(self) -> tuple[str, ...]:
        """Tensors that nodes outside branches make, in that order."""
        return tuple(name for step in self._block.steps for name in step.outputs if name)

    def ancestors(self, names: Collection[str]) -> frozenset[str]:
        """The tensors that these are made of, themselves included."""
        steps = self._plan(frozenset(names))
        return frozenset(name for planned in steps for name in planned.step.outputs if name)

    def value_of(self, key: str) -> Tensor:
        """A stored tensor as it is now; what follows from others is computed of them.

        Raises:
            KeyError: there is none of that key.
        """
        if key in self.weights:
            weight = self.weights[key]
            return weight.clamp_min(_SMALLEST_SCALE) if key in self._scales else weight
        held = self._buffers[self._constants[key]]
        if key in self.tied:
            x, w = (self.value_of(other).reshape(-1) for other in self.tied[key])
            return (x * w).reshape(held.shape)
        return held

    def load_weights(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Set weights, for example integer weights to the floats that they were rounded from.

        Raises:
            ModelError: no such weight, or another shape.
        """
        for key, value in values.items():
            if key not in self.weights:
                raise ModelError(f"no weight {key!r}; there are {len(self.weights)}")
            weight = self.weights[key]
            if tuple(weight.shape) != value.shape:
                raise ModelError(
                    f"weight {key!r} has shape {tuple(weight.shape)}, not {value.shape}"
                )
            with torch.no_grad():
                weight.copy_(to_torch(np.asarray(value)))

    # --- reading

    def _read(self, graph: GraphProto, scope: str, outer: Mapping[str, str]) -> Block:
        """A graph as steps; `outer` has the keys of what surrounds it, by name."""
        if graph.sparse_initializer:
            raise ModelError(f"graph {graph.name!r} has sparse weights; legal: dense ones")
        held: dict[str, str] = {}
        visible = ChainMap(held, dict(outer))
        for value in (*graph.input, *graph.value_info, *graph.output):
            self._kinds[value.name] = value.type.tensor_type.elem_type
        tensors = dict(own_tensors(graph))
        masters = integer_weights(graph, tensors, self._trainable, scope)
        scales: set[str] = set()
        if self._learn_scales:
            ties = tied_scales(graph, tensors)
            rounded = [n for n in graph.node if n.op_type in _QUANTIZERS]
            biases = {name for name, t in tensors.items() if t.data_type == TensorProto.INT32}
            scales = {n.input[1] for n in rounded if n.input[0] not in biases}
            self.tied |= {scope + key: (scope + x, scope + w) for key, (x, w) in ties.items()}
        for name, tensor in tensors.items():
            held[name] = scope + name
            self._kinds[name] = tensor.data_type
            if name not in masters:
                self._hold(scope + name, tensor, is_scale=name in scales)
        for name, node in masters.items():
            self._hold_master(scope + name, tensors[name], node, visible)
        steps = []
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in tensors:
                continue
            step = self._step(node, scope, visible)
            folded = self._fold(step, scope, visible) if self._is_fixed(step, visible) else None
            if folded is None:
                steps.append(step)
            else:
                held.update(folded)
        return Block(held=held, steps=tuple(steps), outputs=tuple(v.name for v in graph.output))

    def _hold(self, key: str, tensor: TensorProto, *, is_scale: bool) -> None:
        try:
            value = to_torch(stored(tensor))
        except (TypeError, ValueError, KeyError) as exc:
            raise ModelError(f"constant {key!r}: {exc}") from exc
        is_weight = key in self._trainable and bool(value.isfinite().all())
        if tensor.data_type in FLOATS and (is_scale or is_weight):
            self._add_weight(key, value)
            if is_scale:
                self._scales.add(key)
        else:
            self._add_constant(key, value)

    def _hold_master(
        self, key: str, tensor: TensorProto, node: NodeProto, visible: Mapping[str, str]
    ) -> None:
        scale, zero = visible[node.input[1]], visible.get(node.input[2] if node.input[2:] else "")
        call = replace(self._call(node), kinds=(tensor.data_type,))
        integers = to_torch(stored(tensor))
        with torch.no_grad():
            offset = None if zero is None else self.value_of(zero)
            self._add_weight(key, dequantize_linear(call, integers, self.value_of(scale), offset))
        self.quantized[key] = QuantizedWeight(call=call, scale=scale, zero=zero or "")

    def _add_weight(self, key: str, value: Tensor) -> None:
        parameter = torch.nn.Parameter(value)
        self.register_parameter(f"weight_{len(self.weights)}", parameter)
        self.weights[key] = parameter

    def _add_constant(self, key: str, value: Tensor) -> None:
        self._constants[key] = f"constant_{len(self._constants)}"
        self.register_buffer(self._constants[key], value, persistent=False)

    def _call(self, node: NodeProto) -> Call:
        attributes = {
            a.name: plain_value(helper.get_attribute_value(a))
            for a in node.attribute
            if not (a.HasField("g") or a.graphs)
        }
        return Call(
            op=node.op_type,
            opset=self._opsets.get(domain_of(node.domain), 1),
            attributes=attributes,
            outputs=len(node.output),
            kinds=tuple(self._kinds.get(name, 0) for name in node.input),
        )

    def _step(self, node: NodeProto, scope: str, visible: Mapping[str, str]) -> Step:
        function = OPERATORS.get((domain_of(node.domain), node.op_type))
        if node.op_type == "DequantizeLinear" and visible.get(node.input[0]) in self.quantized:
            function = weight_of
        return Step(
            call=self._call(node),
            label=f"node {node.name!r} ({node.op_type})",
            function=function,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            reads=frozenset(read_by(node)) - {""},
            inner={
                name: self._read(inner, inner_scope(scope, node, name), visible)
                for name, inner in branches(node)
            },
        )

    def _is_fixed(self, step: Step, visible: Mapping[str, str]) -> bool:
        keys = [visible.get(name) for name in step.inputs if name]
        return step.call.op not in _NEVER_FOLDED and all(key in self._constants for key in keys)

    def _fold(self, step: Step, scope: str, visible: Mapping[str, str]) -> dict[str, str] | None:
        """Compute a step once whose inputs never change; the keys of its outputs, if they are small."""
        values = {name: self.value_of(visible[name]) for name in step.inputs if name}
        with torch.no_grad():
            self._run((_Planned(step, ()),), values)
        keys = {name: f"{scope}{name}" for name in step.outputs if name}
        if any(values[name].numel() > _FOLDED_MOST for name in keys):
            return None
        for name, key in keys.items():
            self._add_constant(key, values[name].clone())
        return keys

    # --- running

    def _held(self, block: Block) -> Iterator[tuple[str, Tensor]]:
        for name, key in block.held.items():
            yield name, self.value_of(key)

    def _plan(self, wanted: frozenset[str]) -> tuple[_Planned, ...]:
        """The steps that lead to these tensors, each with what nothing reads after it."""
        if wanted not in self._plans:
            there = {*self.input_names, *self._block.held, *self.inner_names}
            missing = sorted(wanted - there)
            if missing:
                raise ModelError(f"no tensor {missing[0]!r} in the graph (outside branches)")
            needed, read, steps = set(wanted), set(wanted), []
            for step in reversed(self._block.steps):
                if needed.isdisjoint(step.outputs):
                    continue
                needed |= step.reads
                steps.append(_Planned(step, tuple(step.reads - read)))
                read |= step.reads
            self._plans[wanted] = tuple(reversed(steps))
        return self._plans[wanted]

    def _run(self, plan: Iterable[_Planned], values: Values) -> None:
        for planned in plan:
            step = planned.step
            try:
                found = self._compute(step, values)
            except ModelError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as exc:
                raise ModelError(f"{step.label} cannot be computed: {exc}") from exc
            values.update(
                {name: value for name, value in zip(step.outputs, found, strict=False) if name}
            )
            for name in planned.drops:
                values.pop(name, None)

    def _compute(self, step: Step, values: Values) -> list[Tensor]:
        if step.function is None:
            return self._branch(step, values)
        given = [values[name] if name else None for name in step.inputs]
        found = step.function(step.call, *given)
        return found if isinstance(found, list) else [found]

    def _branch(self, step: Step, values: Values) -> list[Tensor]:
        """The outputs of the branch that the condition chooses."""
        taken = "then_branch" if bool(values[step.inputs[0]]) else "else_branch"
        block = step.inner[taken]
        inside: Values = ChainMap({}, values)
        inside.update(self._held(block))
        self._run((_Planned(one, ()) for one in block.steps), inside)
        return [inside[name] for name in block.outputs]
