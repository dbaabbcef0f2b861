"""Prepare reference models: `python -m benchmarks.models [NAME ...] --out DIR --data DIR`.

Each model gets a folder with `model.onnx`, its labelled samples and `reference.json` (metric,
licence, hashes); each pipeline one with a graph for every component and `pipeline.json` (wiring,
figures in float, licence, hashes). Needs the packages of `benchmarks/requirements.txt`. What cannot
be prepared here is listed with its reason, and the rest goes on; the exit code is 1 when anything
was left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.models.pipelines import ReferencePipeline
from benchmarks.models.reference import DataMissingError, Reference
from edgesdk.files import sha256_file, write_json
from tools.fetch_models import FetchError, fetch

NAMES = ("minilm", "efflite0", "kws", "resnet", "resnet50", "digits", "ocr_rec", "ocr_det", "vad")
PIPELINES = ("smollm2", "whisper", "twotower", "ocr")


def load_reference(name: str) -> Reference:
    """The reference model of that name."""
    found = import_module(f"benchmarks.models.{name}").REFERENCE
    assert isinstance(found, Reference)
    return found


def prepare(reference: Reference, data: Path, out: Path) -> None:
    """Build the model and its samples in `out/<name>`; what is already there is kept.

    Raises:
        DataMissingError, FetchError: what is needed and how to get it.
    """
    folder = out / reference.name
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "files"
    fetch(reference.files, files)
    model = folder / "model.onnx"
    if not model.exists():
        part = folder / "model.part.onnx"
        reference.build(files, data, part)
        part.replace(model)
    done = folder / "reference.json"
    if done.exists():
        return
    samples = reference.samples(files, data, folder)
    about = {
        "task": reference.task,
        "model_sha256": sha256_file(model),
        "samples": samples.name,
        "metric": reference.metric,
        "licence": reference.licence,
        "marks": reference.marks,
        "sources": [f"{file.requirement} {file.member} {file.sha256}" for file in reference.files],
    }
    write_json(done, about)


def load_pipeline(name: str) -> ReferencePipeline:
    """The reference pipeline of that name."""
    found = import_module(f"benchmarks.models.{name}").PIPELINE
    assert isinstance(found, ReferencePipeline)
    return found


def prepare_pipeline(
    pipeline: ReferencePipeline, data: Path, out: Path, most: int | None = None
) -> None:
    """Build the components, their samples and the figures in `out/<name>`; what is there is kept.

    Args:
        pipeline: what to prepare.
        data: folder of labelled data.
        out: gets the folder.
        most: samples to evaluate at most; None for all.

    Raises:
        DataMissingError, FetchError: what is needed and how to get it.
    """
    folder = out / pipeline.name
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "files"
    fetch(pipeline.files, files)
    graphs = [folder / f"{part.name}.onnx" for part in pipeline.parts]
    if not all(graph.exists() for graph in graphs):
        part = folder / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        pipeline.build(files, data, part)
        for built in part.iterdir():
            built.replace(folder / built.name)
        part.rmdir()
    done = folder / "pipeline.json"
    if done.exists():
        return
    samples = pipeline.samples(files, data, folder)
    about = {
        "task": pipeline.task,
        "modalities": dict(pipeline.modalities),
        "components": [
            {**asdict(part), "sha256": sha256_file(graph)}
            for part, graph in zip(pipeline.parts, graphs, strict=True)
        ],
        "steps": [asdict(step) for step in pipeline.steps],
        "samples": samples.name,
        "figures": dict(pipeline.evaluate(folder, most)),
        "rows": most,
        "licence": pipeline.licence,
        "marks": pipeline.marks,
        "sources": [f"{file.requirement} {file.member} {file.sha256}" for file in pipeline.files],
    }
    write_json(done, about)


def main() -> int:
    """Prepare the models named on the command line, or all."""
    names = (*NAMES, *PIPELINES)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that gets one folder a model"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="labelled data; see README")
    parser.add_argument("--rows", type=int, help="samples to evaluate pipelines on, at most")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(
            f"no reference model named {', '.join(unknown)}; there are: {', '.join(names)}"
        )
    left_out = 0
    data, out = arguments.data.resolve(), arguments.out.resolve()
    for name in arguments.names or names:
        try:
            if name in PIPELINES:
                prepare_pipeline(load_pipeline(name), data, out, arguments.rows)
            else:
                prepare(load_reference(name), data, out)
            print(f"{name}: {arguments.out / name}")
        except (DataMissingError, FetchError, ImportError) as exc:
            print(f"{name}: left out: {exc}", file=sys.stderr)
            left_out += 1
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
