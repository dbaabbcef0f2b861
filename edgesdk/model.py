"""Facts of an ONNX file: what goes in and out, what it weighs, what it costs to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.errors import ModelError
from edgesdk.onnxfile.graph import check_graph
from edgesdk.onnxfile.nodes import NodeFacts, list_nodes, sum_stored
from edgesdk.onnxfile.open import OnnxFile, open_onnx, read_graph
from edgesdk.onnxfile.shapes import infer
from edgesdk.onnxfile.tensors import check_dim, dtype_name
from edgesdk.onnxfile.work import GraphWork, list_work
from edgesdk.signature import Dim, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, ValueInfoProto

_STANDARD_DOMAINS = frozenset(
    {"", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"}
)
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One ONNX graph, as far as it can be known without running it.

    Attributes:
        path: the file.
        inputs: what a caller must give; weights that the file also lists as inputs are not among
            them.
        outputs: what a run returns.
        opset: version of the default operator set.
        domains: operator set versions by domain; the default one is the empty string.
        ir_version: version of the file format.
        producer: exporter and its version, as the file says.
        parameters: stored tensor elements, in initializers and Constant nodes, subgraphs included.
        weight_bytes: bytes of these.
        file_bytes: the file and its external data.
        sha256: of the file; where there is external data, of the digests of all files in order.
        external_files: names relative to the file's folder.
        nodes: every node, those of subgraphs after the node that holds them.
        functions: (domain, name) of the functions that the file defines itself.
        metadata: what the exporter noted.
    """

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    domains: dict[str, int]
    ir_version: int
    producer: str
    parameters: int
    weight_bytes: int
    file_bytes: int
    sha256: str
    external_files: tuple[str, ...]
    nodes: tuple[NodeFacts, ...]
    functions: tuple[tuple[str, str], ...]
    metadata: dict[str, str]

    @property
    def op_histogram(self) -> dict[str, int]:
        """How often each operator occurs, most frequent first; `domain::Op` outside the default."""
        return dict(Counter(node.qualified_op for node in self.nodes).most_common())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the nodes where they are known; see `unknown_macs_nodes`.

        Both branches of an If count, and the body of a Loop counts once.
        """
        return sum(node.macs for node in self.nodes if node.macs is not None)

    @property
    def unknown_macs_nodes(self) -> int:
        """Nodes whose multiply-accumulates depend on shapes that the file does not fix."""
        return sum(node.macs is None for node in self.nodes)

    @property
    def has_control_flow(self) -> bool:
        """Whether a node runs other graphs: If, Loop, Scan."""
        return any(node.op in _CONTROL_FLOW for node in self.nodes)

    @property
    def has_rnn(self) -> bool:
        """Whether a node carries state over time: LSTM, GRU, RNN."""
        return any(node.op in _RECURRENT for node in self.nodes)

    @property
    def custom_domains(self) -> tuple[str, ...]:
        """Domains of operators that ONNX does not define and the file does not bring."""
        own = set(self.functions)
        return tuple(
            sorted(
                {
                    node.domain
                    for node in self.nodes
                    if node.domain not in _STANDARD_DOMAINS and (node.domain, node.op) not in own
                }
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document: fields and properties."""
        return {
            **asdict(self),
            "path": str(self.path),
            "op_histogram": self.op_histogram,
            "macs": self.macs,
            "unknown_macs_nodes": self.unknown_macs_nodes,
            "has_control_flow": self.has_control_flow,
            "has_rnn": self.has_rnn,
            "custom_domains": list(self.custom_domains),
        }


def read_model(path: Path) -> Model:
    """Check an ONNX file and collect its facts; the weights are not loaded.

    MACs and activation bytes are known here as far as the file itself states shapes; `node_facts`
    infers the rest.

    Raises:
        ModelError: no such file, not ONNX, damaged, hostile, or without a usable signature.
    """
    file = open_onnx(path)
    try:
        return _facts(path, file)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def node_facts(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[NodeFacts, ...]:
    """The nodes with the MACs and activation bytes that follow from fixed input shapes.

    Shapes are inferred in a child process. Inputs that are not named keep their declared shape;
    what depends on their symbolic axes stays None.

    Args:
        model: as `read_model` returned it; its file is opened again.
        shapes: input name to shape.

    Raises:
        ModelError: an unknown input, a shape it does not take, a graph that cannot be inferred, or
            a file that has changed.
    """
    proto = _at_shapes(model, shapes)
    try:
        nodes = list_nodes(proto.graph, infer(proto).graph)
    except ModelError as exc:
        raise ModelError(f"{model.path}: {exc}") from exc
    if [(node.name, node.op) for node in nodes] != [(node.name, node.op) for node in model.nodes]:
        raise ModelError(f"{model.path} has changed since it was read; read it again")
    return nodes


def model_work(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> GraphWork:
    """What runs of a model have to do at fixed input shapes: the facts that predictions start from.

    Takes and raises what `node_facts` does.
    """
    return list_work(infer(_at_shapes(model, shapes)).graph)


def _at_shapes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """The graph without its weights, its inputs of these shapes."""
    for name, shape in shapes.items():
        _check_shape(model, name, shape)
    proto = read_graph(model.path)
    for info in proto.graph.input:
        if info.name in shapes:
            _fix(info, shapes[info.name])
    return proto


def check_readable(model: Model, max_opset: int, max_ir: int, runtime: str) -> str | None:
    """Why a runtime cannot read the model, or None when its versions suffice.

    Args:
        model: the model.
        max_opset: newest default operator set that the runtime reads.
        max_ir: newest file format that the runtime reads.
        runtime: its name and version, for the reason.
    """
    if model.opset > max_opset:
        return (
            f"{runtime} reads opset {max_opset} at most, the model has {model.opset}; "
            f"export it with opset_version={max_opset} or use a newer {runtime}"
        )
    if model.ir_version > max_ir:
        return (
            f"{runtime} reads IR version {max_ir} at most, the model has {model.ir_version}; "
            f"export it with an older onnx or use a newer {runtime}"
        )
    return None


def unknown_ops(model: Model) -> tuple[str, ...]:
    """Operators that the installed onnx does not define at the model's opset, sorted.

    Those outside the default domain read `domain::Op`; functions that the file defines itself are
    known.
    """
    import onnx

    own = set(model.functions)
    unknown: set[str] = set()
    for node in model.nodes:
        if (node.domain, node.op) in own:
            continue
        version = model.domains.get(node.domain, model.opset)
        try:
            if not onnx.defs.get_schema(node.op, version, node.domain).deprecated:
                continue
        except onnx.defs.SchemaError:
            pass
        unknown.add(node.qualified_op)
    return tuple(sorted(unknown))


def _facts(path: Path, file: OnnxFile) -> Model:
    proto, graph = file.proto, file.proto.graph
    domains = _domains(proto)
    if proto.ir_version < 1:
        raise ModelError(f"IR version {proto.ir_version}; legal: 1 and above; export it again")
    if not graph.node:
        raise ModelError("the graph has no nodes; export the model again")
    if not graph.output:
        raise ModelError("the graph has no outputs; export the model again")
    check_graph(graph)
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {tensor.values.name for tensor in graph.sparse_initializer}
    parameters, weight_bytes = sum_stored(proto)
    return Model(
        path=path,
        inputs=_signature("input", (info for info in graph.input if info.name not in weights)),
        outputs=_signature("output", _ranked_outputs(proto)),
        opset=domains.get("", 1),
        domains=domains,
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        parameters=parameters,
        weight_bytes=weight_bytes,
        file_bytes=file.file_bytes,
        sha256=file.sha256,
        external_files=file.external_files,
        nodes=list_nodes(graph, graph),
        functions=tuple((function.domain, function.name) for function in proto.functions),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
    )


def _domains(proto: ModelProto) -> dict[str, int]:
    """Operator sets by domain; a file of IR version 1 or 2 states none and means opset 1."""
    domains: dict[str, int] = {}
    for opset in proto.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        if opset.version < 1:
            raise ModelError(f"opset {opset.version} of domain {domain!r}; legal: 1 and above")
        if domains.setdefault(domain, opset.version) != opset.version:
            raise ModelError(
                f"opsets {domains[domain]} and {opset.version} of domain {domain!r} at once; "
                "legal: one; export it again"
            )
    if not domains and proto.ir_version >= 3:
        raise ModelError("it names no opset, which files have since IR version 3; export it again")
    return domains


def _ranked_outputs(proto: ModelProto) -> Iterable[ValueInfoProto]:
    """The outputs; inferred where the file does not state how many axes one has."""
    graph = proto.graph
    if not all(info.type.tensor_type.HasField("shape") for info in graph.output):
        graph = infer(proto).graph
    return tuple(graph.output)


def _signature(role: str, infos: Iterable[ValueInfoProto]) -> tuple[TensorInfo, ...]:
    found: dict[str, TensorInfo] = {}
    for info in infos:
        owner = f"{role} {info.name!r}"
        kind = info.type.WhichOneof("value")
        if not info.name or info.name in found:
            raise ModelError(f"{owner} occurs twice or has no name; export the model again")
        if kind != "tensor_type":
            what = (kind or "untyped").removesuffix("_type")
            raise ModelError(
                f"{owner} is {what}, not a tensor; export the model with tensors in and out"
            )
        tensor = info.type.tensor_type
        dtype = dtype_name(tensor.elem_type, owner)
        if not tensor.HasField("shape"):
            raise ModelError(f"{owner} does not say how many axes it has; set its shape on export")
        shape = tuple(_dim(dim, owner) for dim in tensor.shape.dim)
        found[info.name] = TensorInfo(name=info.name, dtype=dtype, shape=shape)
    return tuple(found.values())


def _dim(dim: Any, owner: str) -> Dim:
    """One axis. Exporters of PaddlePaddle write -1 and `?` where they do not know."""
    if dim.HasField("dim_value"):
        if dim.dim_value == -1:
            return None
        return check_dim(dim.dim_value, owner)
    return None if dim.dim_param in ("", "?") else str(dim.dim_param)


def _check_shape(model: Model, name: str, shape: tuple[int, ...]) -> None:
    info = next((info for info in model.inputs if info.name == name), None)
    if info is None:
        legal = ", ".join(info.name for info in model.inputs)
        raise ModelError(f"{model.path} has no input {name!r}; its inputs: {legal}")
    if any(dim < 0 for dim in shape):
        raise ModelError(f"input {name!r} cannot have the shape {list(shape)}; legal: 0 and above")
    problem = info.mismatch(info.dtype, shape)
    if problem:
        raise ModelError(f"{model.path}: input {problem}")


def _fix(info: ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = info.type.tensor_type.shape
    dims.ClearField("dim")
    for length in shape:
        dims.dim.add().dim_value = length
