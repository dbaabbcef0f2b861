"""One recipe applied to a model by hand: an ONNX file, and what it holds beside the original."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesdk.aware import quantized
from edgesdk.begin import bench_of, limits_of
from edgesdk.cache import Cache
from edgesdk.errors import SamplesError
from edgesdk.events import Listener, nobody
from edgesdk.evidence import Evidence
from edgesdk.files import check_free_place, new_folder, write_json
from edgesdk.holdings import Holdings, holdings
from edgesdk.making import begun, prepare_model
from edgesdk.measure.settings import Settings
from edgesdk.model import read_model
from edgesdk.pipeline import SINGLE
from edgesdk.plan.candidate import Candidate, Choice, Plan
from edgesdk.profile import load_profile
from edgesdk.request import Request, read_usable_model, samples_of
from edgesdk.samples import Samples
from edgesdk.structural import parse_form
from edgesdk.workshop import Limits, Workshop

MODEL, RECORD = "model.onnx", "compression.json"
"""What an output folder holds, beside the data file of a large model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A recipe applied.

    Attributes:
        folder: holds `model.onnx` and `compression.json`.
        before, after: the original, and what was written.
        notes: what the steps remarked.
    """

    model: str
    recipe: str
    folder: str
    before: Holdings
    after: Holdings
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


def compress_model(
    model: Path,
    recipe: str,
    *,
    profile: str,
    samples: str | None = None,
    calibration: str | None = None,
    training_s: float | None = None,
    out: Path | None = None,
    fix_shapes: bool = False,
    cache: Cache | None = None,
    listen: Listener = nobody,
) -> Compression:
    """Apply a recipe to a model, whether a plan would try it or not. Nothing is checked or measured.

    Args:
        model: the float ONNX file.
        recipe: its name; `edgesdk.recipe` has the grammar. Execution types change nothing in a file.
        profile: of the device that it is for.
        samples: real inputs, for recipes that need some.
        calibration: other real inputs to fit and train on; by default a part of the samples.
        training_s: seconds for each training; None for as long as it gets better.
        out: a new folder; by default the model's name and the recipe's.
        fix_shapes: fix the inputs to the shapes of the samples, where these are all equal.
        cache: where steps keep their results.
        listen: called with each `Event`.

    Raises:
        RecipeError: there is no such recipe.
        SamplesError: it needs samples and there are none, or they do not fit the model.
        OutputError: `out` is taken.
        StepFailed: the model does not take the recipe; the reason is told.
    """
    structure, plain = parse_form(recipe)
    choice = Choice(recipe=plain, backend="onnxruntime", structure=structure)
    request = Request(
        model=model,
        profile=profile,
        samples=samples,
        calibration=calibration,
        training_s=training_s,
    )
    target = out or Path(f"{model.stem}-{choice.form}")
    check_free_place(target)
    facts = read_usable_model(model)
    workshop = Workshop(cache=cache or Cache(), limits=limits_of(Limits(), facts))
    rows = samples_of(request, facts, workshop.cache)
    if choice.needs_calibration and rows.synthetic:
        raise SamplesError(f"{choice.form} needs {', '.join(choice.needs)}; give --samples")
    bench = bench_of(
        request,
        facts,
        rows,
        workshop,
        load_profile(profile),
        Settings(),
        Evidence.UNKNOWN,
        listen,
    )
    plan = Plan(
        baseline=Candidate(choices=((SINGLE, choice),)),
        candidates=(),
        shapes=_shapes(rows) if fix_shapes else None,
    )
    prepared = prepare_model(bench, plan)
    start = begun(bench, choice, prepared)
    done = quantized(bench, choice, start, prepared)
    notes = (*prepared.notes, *start.notes, *done.response["notes"])
    with new_folder(target) as folder:
        for file in done.path.parent.iterdir():
            shutil.copyfile(file, folder / file.name)
        found = Compression(
            model=str(model),
            recipe=choice.form,
            folder=str(target),
            before=holdings(facts, rows.evaluation[0]),
            after=holdings(read_model(folder / done.path.name), rows.evaluation[0]),
            notes=tuple(map(str, notes)),
        )
        write_json(folder / RECORD, found.to_json())
    return found


def _shapes(rows: Samples) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    """The shapes of the samples, where these are all equal."""
    shapes = [(name, shape) for name, shape in rows.uniform_shapes.items() if shape is not None]
    return tuple(shapes) if len(shapes) == len(rows.uniform_shapes) else None
