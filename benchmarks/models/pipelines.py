"""What a reference pipeline is: several components with their wiring, samples and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.fetch_models import Packaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One component, and where what it takes comes from.

    Attributes:
        name: of the component; its graph is `<name>.onnx`.
        inputs: its input -> an input of the pipeline, or `component.output`. An ending `*` stands for
            a number on both sides.
        carried: its output -> its input in the next run, for a component that runs in a loop; these
            inputs begin empty.
    """

    name: str
    inputs: Mapping[str, str]
    carried: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done on the host between components.

    Attributes:
        name: by which its outputs are known, as `name.output`.
        call: `module:function` that does it.
        inputs: what it takes -> where from, as for a `Part`.
    """

    name: str
    call: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePipeline:
    """Components with labelled samples.

    Attributes:
        name: folder it is prepared in, and its name in the results.
        task: what it does, in a few words.
        files: what is taken from published packages.
        licence: SPDX identifier of the weights.
        modalities: input of the pipeline -> image, text, audio, …
        parts: in the order in which they run.
        steps: what is done between them, outside any graph.
        build: `build(files, data, out)` writes `<component>.onnx` for each part, and what else runs it,
            into the folder `out`.
        samples: `samples(files, data, out)` writes labelled samples into `out` and gives their path.
        evaluate: `evaluate(folder, most)` runs the components of a prepared folder on at most so many
            samples (None: all) and gives figures by name.
        marks: measured values of the figures in float, for orientation.
    """

    name: str
    task: str
    files: tuple[Packaged, ...]
    licence: str
    modalities: Mapping[str, str]
    parts: tuple[Part, ...]
    build: Callable[[Path, Path, Path], None]
    samples: Callable[[Path, Path, Path], Path]
    evaluate: Callable[[Path, int | None], Mapping[str, Any]]
    steps: tuple[Step, ...] = ()
    marks: str = ""


def tie_last_product(path: Path, embedding: str) -> None:
    """Make the last product of a graph read the embedding, of which the exporter stored a copy.

    Args:
        path: of the graph, whose last MatMul has an initializer that is the embedding transposed.
        embedding: name of the initializer [vocabulary, width] that Gather reads.
    """
    import onnx

    model = onnx.load(path)
    last = next(node for node in reversed(model.graph.node) if node.op_type == "MatMul")
    copy = next(item for item in model.graph.initializer if item.name == last.input[1])
    kept = next(item for item in model.graph.initializer if item.name == embedding)
    if list(copy.dims) != list(kept.dims)[::-1]:
        raise ValueError(f"{last.name} multiplies by {list(copy.dims)}, not by the embedding")
    model.graph.initializer.remove(copy)
    last.op_type = "Gemm"
    last.input[1] = embedding
    last.attribute.append(onnx.helper.make_attribute("transB", 1))
    onnx.checker.check_model(model)
    onnx.save(model, path)
