"""The node that an engine's conversion gets wrong: float against float, by bisection.

A cut after some node of the graph crosses a few tensors: those made before it and read after it. If
they are right, what comes before the cut does no harm; if one is wrong, a node before it is at fault.
So the cuts can be searched as a sorted list, each time by converting the model with the tensors of a
few cuts as more outputs, and between the last right cut and the first wrong one stands the culprit:
a node that gets right inputs and gives a wrong output. Onnxruntime without optimisation says what is
right.

More outputs keep an engine from fusing what they separate. A fault that is in the fusion shows at the
last node of it, or goes away; then the nodes in between are the answer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.backend import Backend, OpenOptions
from edgesdk.compress import onnx_io
from edgesdk.compress.calibration import evenly
from edgesdk.compress.sites import check_names
from edgesdk.diagnose.simulator import Damage, Engine
from edgesdk.errors import SamplesError
from edgesdk.recipe import Recipe

if TYPE_CHECKING:
    import onnx

    from edgesdk.compress.calibration import SampleSet

FLOOR_DB = 50.0
"""Signal over noise below which a tensor is wrong. Reordered float32 sums leave above 100 dB, float16
arithmetic about 60."""
ROWS = 4
_CUTS = 3
"""Cuts at a time: a quarter of the nodes is left after each conversion."""
_TYPES = {"float": 1, "float16": 10, "double": 11, "bool": 9} | {
    "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "uint32": 12
}  # fmt: skip
"""Numbers in `TensorProto.DataType` of onnxruntime's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionFault:
    """Where a converted model leaves the original.

    Attributes:
        suspects: names of the nodes, in graph order, one of which is at fault; a single one unless
            the fault goes away when the tensors between them become outputs.
        ops: their operators.
        tensor: the first one seen wrong; written by the last suspect, or an output of the model.
        error: noise power over signal power there, from 0; 1e20 where it has bad values.
        conversions: how many were made.
    """

    suspects: tuple[str, ...]
    ops: tuple[str, ...]
    tensor: str
    error: float
    conversions: int

    @property
    def certain(self) -> bool:
        """True when the node is known."""
        return len(self.suspects) == 1


def bisect_conversion(
    backend: Backend,
    model: Path,
    samples: SampleSet,
    *,
    recipe: Recipe | None = None,
    floor_db: float = FLOOR_DB,
    rows: int = ROWS,
    cuts: int = _CUTS,
    threads: int = 1,
    scratch: Path | None = None,
) -> ConversionFault | None:
    """Find the first node whose result in the converted model departs from onnxruntime's.

    Takes 1 + log(N) / log(`cuts` + 1) conversions for N nodes, and log2(N) more at most where a
    fault hides.

    Args:
        backend: converts, opens and runs.
        model: ONNX file whose nodes have names of their own, in an order in which they can run.
        samples: real rows.
        recipe: passed to `convert`; by default fp32. Its execution type is the one that is run.
        floor_db: what counts as departing, at any tensor.
        rows: samples at most, evenly chosen; at least 1.
        cuts: in one conversion, at least 1; with fewer of them less is kept from being fused.
        threads: of a converted session.
        scratch: folder for the models and artifacts; by default a temporary one.

    Returns:
        None when no output of the model departs.

    Raises:
        SamplesError: there are no samples.
        ModelError: a node has no name, or shares it.
        StepFailed: the original does not run in onnxruntime, or the engine refused a conversion.
    """
    if not len(samples):
        raise SamplesError("a conversion is judged on samples, and there are none; give --samples")
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".bisect.") as folder:
        trial = _Trial(backend, model, Path(folder), recipe or Recipe(), threads)
        trial.take(samples, evenly(len(samples), max(rows, 1)))
        with trial.reference:
            return _search(trial, 10.0 ** (-floor_db / 10.0), max(cuts, 1))


def _search(trial: _Trial, tolerance: float, most_cuts: int) -> ConversionFault | None:
    nodes = trial.nodes
    right, wrong = 0, len(nodes)
    seen = _worst(trial.errors([]), trial.own_outputs, tolerance)
    if seen is None:
        return None
    while wrong - right > 1:
        places = _places(right, wrong, most_cuts)
        frontiers = [trial.frontier(place) for place in places]
        errors = trial.errors([name for frontier in frontiers for name in frontier])
        is_hidden = _worst(errors, trial.own_outputs, tolerance) is None
        for place, frontier in zip(places, frontiers, strict=True):
            found = _worst(errors, frontier, tolerance)
            if found is not None:
                wrong, seen, is_hidden = place, found, False
                break
            if not is_hidden:
                right = place
        if is_hidden and most_cuts == 1:
            break
        if is_hidden:
            most_cuts = 1
    suspects = nodes[right:wrong]
    return ConversionFault(
        suspects=tuple(node.name for node in suspects),
        ops=tuple(node.op_type for node in suspects),
        tensor=seen[0],
        error=seen[1],
        conversions=trial.conversions,
    )


def _places(right: int, wrong: int, most: int) -> list[int]:
    """At most so many cuts strictly between two, evenly spread."""
    count = min(most, wrong - right - 1)
    return [right + (wrong - right) * (i + 1) // (count + 1) for i in range(count)]


def _worst(
    errors: dict[str, float], names: Sequence[str], tolerance: float
) -> tuple[str, float] | None:
    """The tensor with the largest error, if that is too large."""
    name, error = max(
        ((name, errors[name]) for name in names), key=lambda item: item[1], default=("", 0.0)
    )
    return (name, error) if error > tolerance else None


class _Trial:
    """The model, its right answers, and conversions of it with more outputs.

    Attributes:
        nodes: those that depend on an input, in order; cut `i` lies before `nodes[i]`.
        own_outputs: of the model.
        conversions: made so far.
    """

    def __init__(
        self, backend: Backend, model: Path, folder: Path, recipe: Recipe, threads: int
    ) -> None:
        self._proto = onnx_io.read_whole(model)
        check_names(self._proto)
        graph = self._proto.graph
        stored = {tensor.name for tensor in graph.initializer}
        self.own_outputs = [value.name for value in graph.output]
        self.nodes = _depending(graph, {value.name for value in graph.input} - stored)
        self.conversions = 0
        self._backend, self._recipe, self._folder = backend, recipe, folder
        self._options = OpenOptions(threads=threads, execution=self._recipe.execution)
        self._made = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._read: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            self._read |= {name: i for name in _reads(node) if name in self._made}
        exposed = self._with_outputs(list(self._made), types={}, path=folder / "reference.onnx")
        self.reference = Engine(exposed, threads=threads, optimise=False)
        self._types = {
            name: _TYPES[kind.removeprefix("tensor(").removesuffix(")")]
            for name, kind in self.reference.outputs.items()
            if kind.removeprefix("tensor(").removesuffix(")") in _TYPES
        }

    def take(self, samples: SampleSet, rows: Sequence[int]) -> None:
        """Judge by these rows."""
        self._samples, self._rows = samples, rows

    def frontier(self, place: int) -> list[str]:
        """Tensors made before the cut and read after it, and the model's outputs made before it."""
        return [
            name
            for name, made in self._made.items()
            if made < place
            and (self._read.get(name, -1) >= place or name in self.own_outputs)
            and name in self._types
        ]

    def errors(self, names: Sequence[str]) -> dict[str, float]:
        """Convert with these outputs beside the model's own; noise over signal of all of them."""
        self.conversions += 1
        folder = self._folder / str(self.conversions)
        folder.mkdir()
        wanted = tuple(dict.fromkeys((*self._compared_outputs(), *names)))
        model = self._with_outputs(wanted, types=self._types, path=folder / "model.onnx")
        (folder / "artifact").mkdir()
        artifact = self._backend.convert(model, self._recipe, folder / "artifact")
        damage = Damage()
        with self._backend.open(artifact, self._options) as session:
            for row in self._rows:
                inputs = self._samples[row].inputs
                found = session.run({info.name: inputs[info.name] for info in session.inputs})
                damage.add(self.reference.run(inputs, wanted), found)
        shutil.rmtree(folder)
        by_name = dict(zip(wanted, damage.by_output, strict=True))
        return {name: by_name.get(name, 0.0) for name in (*self.own_outputs, *wanted)}

    def _compared_outputs(self) -> list[str]:
        return [name for name in self.own_outputs if name in self._types]

    def _with_outputs(self, names: Sequence[str], *, types: dict[str, int], path: Path) -> Path:
        from onnx import ModelProto, ValueInfoProto, helper

        proto = ModelProto()
        proto.CopyFrom(self._proto)
        for name in names:
            if name in self.own_outputs:
                continue
            value = (
                helper.make_tensor_value_info(name, types[name], None)
                if name in types
                else ValueInfoProto(name=name)
            )
            proto.graph.output.append(value)
        return onnx_io.write(proto, path)


def _depending(graph: onnx.GraphProto, inputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that some input of the model reaches; engines compute the others beforehand."""
    known, found = set(inputs), []
    for node in graph.node:
        if known & set(_reads(node)):
            found.append(node)
            known |= set(node.output)
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """All names that a node reads, in its branches and loops, too."""
    yield from (name for name in node.input if name)
    for subgraph in onnx_io.subgraphs(node):
        for inner in subgraph.node:
            yield from _reads(inner)
        yield from (value.name for value in subgraph.output)
