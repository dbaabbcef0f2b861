"""Models and bundles beside each other on a device: what they hold, how fast they are, what they lose."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgesdk.bundle.manifest import Manifest
from edgesdk.cache import Cache
from edgesdk.comparison import Record
from edgesdk.device.base import Device
from edgesdk.device.find import LOCAL, find_device, is_timed
from edgesdk.errors import DeviceError, EdgeSdkError, InputError
from edgesdk.events import Event, Listener, nobody
from edgesdk.floors import broken_outputs
from edgesdk.holdings import Holdings, holdings
from edgesdk.measure.alone import measure_alone
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.result import Measurement
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.measuring import TIMED_ROWS
from edgesdk.metrics import load_metric
from edgesdk.model import Model, read_model
from edgesdk.opened import open_target
from edgesdk.quality import Quality, judge
from edgesdk.samples import INPUT_PREFIX, Samples, read_samples
from edgesdk.usercode import absolute_reference

_STEP_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of them, beside the first.

    Attributes:
        name: as the user named it.
        holds: parameters, bytes and multiply-accumulates; None where the file is not ONNX.
        measurement: its speedup is over the first; None where it did not run.
        quality: its outputs beside those of the first, and the task metrics of both.
        problem: why it did not run; None where it did.
    """

    name: str
    backend: str
    execution: str
    holds: Holdings | None
    measurement: Measurement | None = None
    quality: Quality | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """All of them, the one that the others are compared with first."""

    device: str
    rows: int
    entries: tuple[Compared, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What all comparisons share."""

    place: Device
    rows: Samples
    metrics: tuple[str, ...]
    settings: Settings
    scratch: Path

    def step(self, name: str, target: Target, folder: str, **more: Any) -> dict[str, Any]:
        request = {
            "backend": target.backend,
            "artifact": target.artifact,
            "files": target.all_files(),
            "execution": target.execution,
            "threads": target.threads,
            "rows": self.rows.evaluation,
            **more,
        }
        return self.place.run_step(
            f"edgesdk.steps:{name}",
            request,
            folder=self.scratch / folder,
            timeout_s=_STEP_TIMEOUT_S,
        ).response


def compare_targets(
    targets: Sequence[Path],
    *,
    samples: str,
    metrics: Sequence[str] = (),
    backend: str = "onnxruntime",
    threads: int | None = None,
    device: str = LOCAL,
    settings: Settings | None = None,
    listen: Listener = nobody,
) -> Beside:
    """Set models and bundles beside the first of them, on the same rows of the same samples.

    Args:
        targets: ONNX files and bundles, at least two, all with the inputs and outputs of the first.
        samples: real inputs, with labels for the metrics; all rows of the evaluation part are used.
        metrics: task metrics, as `edgesdk.metrics.load_metric` takes them.
        backend: what runs those that are ONNX files.
        threads: in one run; None for all cores.
        device: where; see `edgesdk.device.find`.
        settings: how carefully to measure.
        listen: called with each `Event`.

    Raises:
        InputError: less than two targets, or one that is neither bundle nor model.
        DeviceError: the device cannot be used, or tells no times.
        SamplesError: the samples do not fit the first, or a metric does not load.
        StepFailed: the first does not run.
    """
    if len(targets) < 2:
        raise InputError("name at least two: the first is what the others are compared with")
    if not is_timed(device):
        raise DeviceError(
            f"{device} tells no times; compare on the device itself or on this machine"
        )
    with tempfile.TemporaryDirectory(prefix="edgesdk-compare-") as name:
        scratch = Path(name)
        opened = [
            open_target(path, scratch / f"target{number}", backend=backend, threads=threads)
            for number, path in enumerate(targets)
        ]
        inputs = opened[0][1]
        engines = list(dict.fromkeys(target.backend for target, _, _ in opened))
        with closing(find_device(device, engines, Cache())) as place:
            cores = place.machine().logical_cores
            stage = _Stage(
                place=place,
                rows=read_samples(samples, inputs, store=Cache().root / "samples"),
                metrics=tuple(absolute_reference(metric) for metric in metrics),
                settings=settings or Settings(),
                scratch=scratch,
            )
            ready = [replace(target, threads=target.threads or cores) for target, _, _ in opened]
            listen(Event(stage="compare", subject=str(targets[0]), state="begin"))
            stage.step("reference", ready[0], "reference")
            entries: list[Compared] = []
            for number, (path, target) in enumerate(zip(targets, ready, strict=True)):
                blank = Compared(
                    name=str(path),
                    backend=target.backend,
                    execution=target.execution,
                    holds=_holds(opened[number][2], target, stage.rows),
                )
                entries += _measured(stage, blank, ready[0], target, entries)
                listen(
                    Event(
                        stage="compare",
                        subject=str(path),
                        state="failed" if entries[-1].problem else "done",
                        message=entries[-1].problem or "",
                        done=number + 1,
                        total=len(targets),
                    )
                )
    return Beside(device=device, rows=len(stage.rows.evaluation), entries=tuple(entries))


def _measured(
    stage: _Stage, blank: Compared, first: Target, target: Target, before: Sequence[Compared]
) -> list[Compared]:
    """The entry with its figures; why there are none where it does not run, unless it is the first."""
    folder = f"{len(before)}"
    try:
        quality, broken = _quality(stage, target, folder)
        if broken:
            return [replace(blank, quality=quality, problem=broken)]
        inputs = _inputs(stage)
        if not before:
            alone = measure_alone(
                target, inputs, stage.settings, stage.place, stage.scratch / f"{folder}-times"
            )
            measurement = alone.measurement
        else:
            _, measurement = measure_candidate(
                first,
                target,
                inputs,
                stage.settings,
                stage.place,
                stage.scratch / f"{folder}-times",
            )
    except EdgeSdkError as exc:
        if not before:
            raise
        return [replace(blank, problem=str(exc))]
    return [replace(blank, quality=quality, measurement=measurement)]


def _quality(stage: _Stage, target: Target, folder: str) -> tuple[Quality, str | None]:
    """Closeness and metrics; with it what makes the outputs useless, if anything."""
    told = stage.step(
        "check",
        target,
        f"{folder}-check",
        reference=stage.scratch / "reference" / "outputs",
        metrics=list(stage.metrics),
        golden=0,
    )
    metrics = [load_metric(metric) for metric in stage.metrics]
    record = Record.from_json(told["record"])
    broken = broken_outputs(record)
    return judge(record, (), metrics), broken[0].reason if broken else None


def _inputs(stage: _Stage) -> Inputs:
    rows = stage.rows.evaluation.subset(TIMED_ROWS)
    return Inputs(names=tuple(rows[0].inputs), rows=rows.paths(), prefix=INPUT_PREFIX)


def _holds(source: Manifest | Model, target: Target, rows: Samples) -> Holdings | None:
    """Of an ONNX file, or the one in a bundle; None for another engine's format."""
    if isinstance(source, Model):
        return holdings(source, rows.evaluation[0])
    if target.artifact.suffix != ".onnx":
        return None
    return holdings(read_model(target.artifact), rows.evaluation[0])
