"""The steps of a deploy that run native code, each called in a child process of its own.

Every function takes a JSON request and returns a JSON response. What it reads is named by absolute
paths; what it writes goes below its working directory, the step's own folder, and its response names
that relative to it, so that a finished step can be moved.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.backend import (
    PIPELINE,
    Array,
    NodePlacement,
    NodeTime,
    OpenOptions,
    Session,
    require_backend,
)
from edgesdk.errors import RecipeError, StepFailed
from edgesdk.isolate import tell
from edgesdk.recipe import Recipe
from edgesdk.samples import Sample, SampleSet

if TYPE_CHECKING:
    from edgesdk.executor.run import Run

_MORE_LOOKS = 2
Request = dict[str, Any]
Response = dict[str, Any]


def prepare(request: Request) -> Response:
    """`model`, `shapes`, `rows`, `how` -> `path`, `notes`: the graph that recipes start from."""
    from edgesdk.compress.prepare import prepare as prepare_model

    shapes = request["shapes"]
    rows = SampleSet.from_json(request["rows"])
    prepared = prepare_model(
        Path(request["model"]),
        _made("files"),
        shapes=None if shapes is None else {name: tuple(dims) for name, dims in shapes},
        example=rows[0].inputs,
        only_shapes=request["how"] == "only_shapes",
        fold=request["how"] == "cleaned",
    )
    return {"path": _relative(prepared.path), "notes": list(prepared.notes)}


def restructure(request: Request) -> Response:
    """`model`, `original`, `step`, `calibration`, `multiple`, `training_s`, `pace`, `checkpoint` -> a model.

    Its `path` and `notes`. `training_s` bounds training; `pace` times the layers of `rank`; both may be
    None.
    """
    from edgesdk.layer_times import Pace
    from edgesdk.restructure import restructure as restructure_model
    from edgesdk.structural import parse_step

    rows = request["calibration"]
    checkpoint = Path(request["checkpoint"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        try:
            done = restructure_model(
                Path(request["model"]),
                parse_step(request["step"]),
                _made("files") / "model.onnx",
                Path(scratch),
                original=Path(request["original"]),
                samples=SampleSet.from_json(rows) if rows else None,
                multiple=request["multiple"],
                checkpoint=checkpoint,
                training_s=request["training_s"],
                pace=Pace.from_json(request["pace"]) if request["pace"] else None,
                progress=tell,
            )
        except RecipeError as exc:
            raise StepFailed(str(exc)) from exc
    return {"path": _relative(done.path), "notes": list(done.notes)}


def train(request: Request) -> Response:
    """`model`, `masters`, `bits`, `original`, `calibration`, `training_s`, `checkpoint` -> a model.

    Its `path` and `notes`. It is the quantized model taught by the original, from the weights that
    `masters` has in float.
    """
    from edgesdk.teaching import teach

    checkpoint = Path(request["checkpoint"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    done = teach(
        Path(request["model"]),
        Path(request["original"]),
        SampleSet.from_json(request["calibration"]),
        _made("files") / "model.onnx",
        masters=Path(request["masters"]),
        bits=request["bits"],
        seconds=request["training_s"],
        checkpoint=checkpoint,
        progress=tell,
    )
    return {"path": _relative(done.path), "notes": list(done.notes)}


def smooth(request: Request) -> Response:
    """`model`, `recipe`, `calibration` -> `path` of the model with its scales migrated, `notes`."""
    from edgesdk.compress.smoothing import smooth as migrate_scales

    target = _made("files") / "model.onnx"
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        try:
            done = migrate_scales(
                Path(request["model"]),
                Recipe.parse(request["recipe"]),
                target,
                SampleSet.from_json(request["calibration"]),
                Path(scratch),
            )
        except RecipeError as exc:
            raise StepFailed(str(exc)) from exc
    return {"path": _relative(target), "notes": [done.note]}


def ranges(request: Request) -> Response:
    """`model`, `calibration`, `most`, `checkpoint` -> `path`: what the model's activations held.

    The file `checkpoint`, outside of this step's folder, outlives a kill.
    """
    from edgesdk.compress.ranges import observe

    checkpoint = Path(request["checkpoint"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    observed = observe(
        Path(request["model"]),
        SampleSet.from_json(request["calibration"]),
        _made("files") / "ranges.npz",
        most=request["most"],
        checkpoint=checkpoint,
    )
    return {"path": "files/ranges.npz", "rows": observed.rows, "notes": list(observed.notes)}


def compress(request: Request) -> Response:
    """`model`, `recipe`, `kept`, `calibration`, `ranges`, `whole`, `memory_bytes` -> a model.

    Its `path`, `notes` and counts of nodes.
    """
    from edgesdk.compress.apply import compress as apply_recipe

    rows = request["calibration"]
    try:
        done = apply_recipe(
            Path(request["model"]),
            Recipe.parse(request["recipe"]),
            _made("files"),
            calibration=SampleSet.from_json(rows) if rows else None,
            kept=frozenset(request["kept"]),
            ranges=Path(request["ranges"]) if request["ranges"] else None,
            whole=Path(request["whole"]) if request["whole"] else None,
            memory_bytes=request["memory_bytes"],
        )
    except RecipeError as exc:
        # It fits this model no better next time: a failed step is remembered, wrong usage is not.
        raise StepFailed(str(exc)) from exc
    return {
        "path": _relative(done.path),
        "notes": list(done.notes),
        "quantized_nodes": done.quantized_nodes,
        "quantizable_nodes": done.quantizable_nodes,
    }


def convert(request: Request) -> Response:
    """`model`, `recipe`, `backend` -> `path` of the engine's artifact, opened once to prove it loads."""
    backend = require_backend(request["backend"])
    artifact = backend.convert(
        Path(request["model"]), Recipe.parse(request["recipe"]), _made("files")
    )
    return {"path": _relative(artifact)}


def quantize(request: Request) -> Response:
    """`artifact`, `recipe`, `backend`, `calibration` -> `path` of what the engine makes of its float form."""
    backend = require_backend(request["backend"])
    rows = request["calibration"]
    artifact = backend.quantize(
        Path(request["artifact"]),
        Recipe.parse(request["recipe"]),
        _made("files"),
        SampleSet.from_json(rows) if rows else None,
    )
    return {"path": _relative(artifact)}


def compile(request: Request) -> Response:  # the word of the field
    """`artifact`, `backend`, `target`, `simulate` -> `path` of the program and what its compiler states.

    That is `placement`, `estimate_ms`, `cycles`, `memory_bytes`, the size in `bytes` and `notes`.
    """
    backend = require_backend(request["backend"])
    out = _made("files")
    done = backend.compile(
        Path(request["artifact"]), request["target"], out, simulate=request["simulate"]
    )
    aside = {path.resolve() for path in done.aside}
    shipped = [path for path in out.rglob("*") if path.is_file() and path.resolve() not in aside]
    return {
        "path": _relative(done.program),
        "placement": [_fields(item) for item in done.placement],
        "estimate_ms": done.estimate_ms,
        "cycles": done.cycles,
        "memory_bytes": done.memory_bytes,
        "bytes": sum(path.stat().st_size for path in shipped),
        "notes": list(done.notes),
    }


def reference(request: Request) -> Response:
    """`backend`, `artifact`, `rows` -> the original's outputs, one .npz a row, in `outputs/`.

    With it the engine's `version`.
    """
    rows = SampleSet.from_json(request["rows"])
    out = _made("outputs")
    with _open(request) as session:
        for number, sample in enumerate(rows):
            outputs = session.run(_taken(session, sample))
            save_arrays(out / f"{number:06d}.npz", outputs)
        names = [info.name for info in session.outputs]
    return {"outputs": names, "rows": len(rows), "version": _version(request)}


def observe(request: Request) -> Response:
    """`wiring`, `parts`, `functions`, `rows`, `threads`, `most` -> what components are given, in `given/`.

    `parts` are `backend`, `artifact` and `execution` of each component by name. Of the steps of a loop
    `most` at least, or all, are kept a row, evenly spread. The response has the number of the row that each
    kept one came from, by component; the pipeline's outputs lie in `outputs/`.
    """
    from contextlib import ExitStack

    from edgesdk.bundle.fields import Field
    from edgesdk.bundle.wires import read_wiring
    from edgesdk.executor.app import checked_step
    from edgesdk.executor.run import Executor
    from edgesdk.observing import Recorder
    from edgesdk.usercode import guarded

    wiring = read_wiring(Field("wiring", request["wiring"]))
    recorder = Recorder(_made("given"), request["most"])
    outputs = _made("outputs")
    with ExitStack() as opened:
        runs: dict[str, Run] = {
            name: opened.enter_context(_open({**part, "threads": request["threads"]})).run
            for name, part in request["parts"].items()
        }
        for name, reference in request["functions"].items():
            runs[name] = checked_step(wiring.stage(name), guarded(reference))
        executor = Executor(wiring, runs, watch=recorder.look)
        for number, sample in enumerate(SampleSet.from_json(request["rows"])):
            save_arrays(outputs / f"{number:06d}.npz", executor.run(sample.inputs))
            recorder.end_row(number)
    return {"rows": recorder.rows, "shapes": recorder.shapes}


def stagewise(request: Request) -> Response:
    """`reference` and `candidate`, whole pipelines; `threads`, `rows` -> `stages`: a record of each stage.

    Both run side by side, and every stage's outputs are compared.
    """
    from edgesdk.assembled import AssembledSession
    from edgesdk.comparison import Comparison

    opened = []
    found: dict[str, Comparison] = {}
    for side in ("reference", "candidate"):
        whole = {"backend": PIPELINE, "artifact": request[side], "execution": "fp32"}
        opened.append(_open({**whole, "threads": request["threads"]}, profiling=True))
    with opened[0] as before, opened[1] as after:
        assert isinstance(before, AssembledSession), "that backend opens nothing else"
        assert isinstance(after, AssembledSession), "that backend opens nothing else"
        for sample in SampleSet.from_json(request["rows"]):
            before.run(_taken(before, sample))
            after.run(_taken(after, sample))
            for stage, outputs in before.made.items():
                found.setdefault(stage, Comparison()).add(outputs, after.made.get(stage, {}), {})
    return {"stages": {stage: comparison.to_json() for stage, comparison in found.items()}}


def check(request: Request) -> Response:
    """`backend`, `artifact`, `rows`, `reference`, `metrics`, `golden`, optional `look`, `kept` -> `record`.

    Runs the rows whose numbers are in `look`, in its order, or all; compares each with the reference
    outputs of that row and scores both. The first that holds what no floor can excuse is the last.
    Writes the candidate's outputs of the first `golden` rows to `golden/`, and of the first `kept` that
    it compares to `kept/`. With the record comes the engine's `version`.
    """
    from edgesdk.comparison import Comparison
    from edgesdk.metrics import load_metric

    rows = SampleSet.from_json(request["rows"])
    expected = Path(request["reference"])
    comparison = Comparison(metrics=[load_metric(name) for name in request["metrics"]])
    compared = dict.fromkeys(request.get("look") or range(len(rows)))
    golden = range(min(request["golden"], len(rows)))
    written = {
        _made("golden"): golden,
        _made("kept"): tuple(compared)[: request.get("kept", 0)],
    }
    with _open(request) as session:
        for number in (*compared, *(number for number in golden if number not in compared)):
            sample = rows[number]
            outputs = session.run(_taken(session, sample))
            for folder, numbers in written.items():
                if number in numbers:
                    save_arrays(folder / f"{number:06d}.npz", outputs)
            if number in compared:
                wanted = load_arrays(expected / f"{number:06d}.npz")
                comparison.add(wanted, outputs, sample.labels, number=number)
            if comparison.broken:
                break
    return {"record": comparison.to_json(), "version": _version(request)}


def compare_places(request: Request) -> Response:
    """`backend`, `artifact`, `rows`, `there` -> `outputs`: how those in `there` depart from those here.

    `there` are .npz files of outputs, one for each of `rows`. With it the engine's `version` here.
    """
    from edgesdk.departures import Departures

    rows, departures = SampleSet.from_json(request["rows"]), Departures()
    with _open(request) as session:
        for sample, file in zip(rows, request["there"], strict=True):
            departures.add(session.run(_taken(session, sample)), load_arrays(Path(file)))
    return {"outputs": [_fields(item) for item in departures.found], "version": _version(request)}


def ends(request: Request) -> Response:
    """`backend`, `artifact` -> `inputs` and `outputs` as name, dtype and shape; the engine's `version`."""
    with _open(request) as session:
        inputs, outputs = (
            [[info.name, info.dtype, list(info.shape)] for info in infos]
            for infos in (session.inputs, session.outputs)
        )
    version = require_backend(request["backend"]).version()
    return {"inputs": inputs, "outputs": outputs, "version": version}


def look_inside(request: Request) -> Response:
    """`backend`, `artifact`, `rows`, `runs` -> placement and mean time of every executed node.

    Where several units share the work, each time is the least of several looks.
    """
    from edgesdk.placement import least_times

    placement, times = _look(request)
    if times and len({item.unit for item in placement}) > 1:
        times = least_times([times, *(_look(request)[1] for _ in range(_MORE_LOOKS))])
    return {
        "placement": [_fields(item) for item in placement],
        "node_times": [_fields(item) for item in times],
    }


def _look(request: Request) -> tuple[tuple[NodePlacement, ...], tuple[NodeTime, ...]]:
    rows = SampleSet.from_json(request["rows"])
    with _open(request, profiling=True) as session:
        feeds = [_taken(session, rows[number % len(rows)]) for number in range(request["runs"])]
        for feed in feeds:
            session.run(feed)
        times = session.node_times()
        return session.placement(), times


def sensitivity(request: Request) -> Response:
    """`model`, `rows`, `precisions`, `threads`, optional `ranges`, `refined` -> the table as JSON.

    Looks at all rows given; about 8 suffice. `ranges` maps names of activations to [low, high];
    activations without one are ranged anew in each run. `refined` limits how many nodes a precision
    are tried at the model's outputs.
    """
    from edgesdk.diagnose.sensitivity import REFINED, measure_sensitivity

    rows = SampleSet.from_json(request["rows"])
    ranges = request.get("ranges") or {}
    table = measure_sensitivity(
        Path(request["model"]),
        rows,
        request["precisions"],
        rows=len(rows),
        ranges={name: (float(low), float(high)) for name, (low, high) in ranges.items()},
        refined=request.get("refined") or REFINED,
        threads=request["threads"],
        scratch=Path.cwd(),
    )
    return table.to_json()


def written(request: Request) -> Response:
    """`model`, `quantized`, `rows`, `precision`, `threads` -> the table as JSON.

    Looks at all rows given; about 8 suffice.
    """
    from edgesdk.diagnose.written import measure_written

    rows = SampleSet.from_json(request["rows"])
    table = measure_written(
        Path(request["model"]),
        Path(request["quantized"]),
        rows,
        request["precision"],
        rows=len(rows),
        threads=request["threads"],
        scratch=Path.cwd(),
    )
    return table.to_json()


def mixtures(request: Request) -> Response:
    """`model`, `quantized` or `precision`, `rows`, `kept`, `threads` -> `damages`, one a set of nodes.

    `kept` is a list of lists of nodes that stay float. With `quantized` the form is what a quantizer
    wrote, else all nodes that take `precision` are simulated at it.
    """
    from edgesdk.diagnose.sensitivity import simulate_kept
    from edgesdk.diagnose.written import measure_kept

    rows = SampleSet.from_json(request["rows"])
    model, kept = Path(request["model"]), request["kept"]
    settings = {"rows": len(rows), "threads": request["threads"], "scratch": Path.cwd()}
    if request["quantized"] is not None:
        damages = measure_kept(model, Path(request["quantized"]), rows, kept, **settings)
    else:
        damages = simulate_kept(model, rows, request["precision"], kept, **settings)
    return {"damages": list(damages)}


def bisect_conversion(request: Request) -> Response:
    """`model`, `rows`, `backend`, `recipe`, `threads` -> `fault`: the node that is converted wrongly.

    None when no output of the converted model departs from onnxruntime's.
    """
    from edgesdk.diagnose.conversion import bisect_conversion as bisect

    fault = bisect(
        require_backend(request["backend"]),
        Path(request["model"]),
        SampleSet.from_json(request["rows"]),
        recipe=Recipe.parse(request["recipe"]),
        threads=request["threads"],
        scratch=Path.cwd(),
    )
    return {"fault": None if fault is None else _fields(fault)}


def self_test(request: Request) -> Response:
    """`bundle`, `threads`, optional `simulate` -> whether its golden samples still come out as recorded."""
    from edgesdk.runtime import load

    bundle, threads, simulate = (
        request["bundle"],
        request["threads"],
        request.get("simulate", False),
    )
    with load(bundle, threads=threads, simulate=simulate) as session:
        found = session.self_test()
    return {"ok": found.ok, "detail": str(found)}


def _open(request: Request, *, profiling: bool = False) -> Session:
    options = OpenOptions(
        threads=request["threads"],
        execution=request["execution"],
        profiling=profiling,
        simulate=request.get("simulate", False),
    )
    return require_backend(request["backend"]).open(Path(request["artifact"]), options)


def _version(request: Request) -> str:
    return require_backend(request["backend"]).version()


def _taken(session: Session, sample: Sample) -> dict[str, Array]:
    """What the artifact takes of a row: conversion may drop an input, a row may leave one out."""
    return {
        info.name: sample.inputs[info.name] for info in session.inputs if info.name in sample.inputs
    }


def _made(name: str) -> Path:
    folder = Path(name)
    folder.mkdir()
    return folder


def _relative(path: Path) -> str:
    return str(path.resolve().relative_to(Path.cwd().resolve()))


def _fields(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}
