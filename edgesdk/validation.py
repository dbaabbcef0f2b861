"""Is a bundle whole, and does it still do its job on a device?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.budget import parse_floor
from edgesdk.bundle.read import read_manifest
from edgesdk.bundle.verify import unpack, verify
from edgesdk.cache import Cache
from edgesdk.comparison import Record
from edgesdk.device.base import Device
from edgesdk.device.find import LOCAL, find_device
from edgesdk.errors import InputError
from edgesdk.gate import gate_problem
from edgesdk.measuring import TIMED_ROWS
from edgesdk.metrics import load_metric, own_names
from edgesdk.model import read_model
from edgesdk.onnxfile.open import open_onnx
from edgesdk.opened import check_single
from edgesdk.placement import unit_shares
from edgesdk.placing import PROFILED_RUNS
from edgesdk.quality import Verdict, judge
from edgesdk.samples import Samples, assumed_lengths, read_samples, synthesise
from edgesdk.signature import TensorInfo
from edgesdk.usercode import absolute_reference

_STEP_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All checks of a bundle on a device, in order."""

    bundle: str
    checks: tuple[Check, ...]
    device: str = LOCAL

    @property
    def passed(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        if self.passed:
            where = "here" if self.device == LOCAL else f"on {self.device}"
            return f"the bundle is whole and does its job {where}"
        failed = ", ".join(check.name for check in self.checks if not check.passed)
        return f"not kept: {failed}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {"passed": self.passed, **asdict(self)}


def validate_bundle(
    bundle: Path,
    *,
    model: Path | None = None,
    samples: str | None = None,
    metrics: Sequence[str] = (),
    floors: Sequence[str] = (),
    max_fallback: float | None = None,
    threads: int | None = None,
    device: str = LOCAL,
) -> Validation:
    """Every hash, the golden samples, then what was asked for: where it runs, quality on samples.

    Args:
        bundle: a folder or a zip.
        model, samples: the float original and real inputs, both or neither.
        metrics, floors: as for a deploy; they need `model` and `samples`.
        max_fallback: largest share of a run, 0 to 1, that may be elsewhere than on the unit that the
            bundle is meant for; seen on the samples, else on made-up inputs.
        threads: None for what the bundle was measured with.
        device: where it is to do its job; see `edgesdk.device.find`.

    Raises:
        BundleError: it is damaged; the first thing wrong is named.
        DeviceError: the device cannot be reached or used.
        InputError: only one of `model` and `samples`, the model is not the bundle's original, or
            the bundle does not say on which unit it is meant to run.
        BackendUnavailable: its engine is not here.
    """
    if (model is None) != (samples is None):
        raise InputError("--model and --samples go together: the original and inputs to compare on")
    if model is None and (metrics or floors):
        raise InputError("--metric and --floor need --model and --samples")
    with tempfile.TemporaryDirectory(prefix="edgesdk-validate-") as scratch:
        folder = bundle
        if bundle.is_file():
            folder = Path(scratch) / "bundle"
            folder.mkdir()
            unpack(bundle, folder)
        else:
            verify(bundle)
        files = len(read_manifest(folder).files)
        checks = [Check(name="integrity", passed=True, detail=f"{files} files, every hash matches")]
        engines = [component.engine.name for component in read_manifest(folder).components]
        with closing(find_device(device, engines, Cache())) as place:
            checks.append(_golden(folder, threads, place, Path(scratch) / "golden"))
            if max_fallback is not None:
                checks.append(
                    _placement(
                        folder, samples, max_fallback, threads, place, Path(scratch) / "placement"
                    )
                )
            if model is not None and samples is not None:
                checks += _quality(
                    folder,
                    model,
                    samples,
                    metrics,
                    floors,
                    threads,
                    place,
                    Path(scratch) / "quality",
                )
    return Validation(bundle=str(bundle), checks=tuple(checks), device=device)


def _golden(folder: Path, threads: int | None, device: Device, scratch: Path) -> Check:
    """The self test, isolated: a broken engine must not take the command with it."""
    request = {"bundle": folder.resolve(), "threads": threads, "simulate": device.simulates}
    found = device.run_step(
        "edgesdk.steps:self_test", request, folder=scratch, timeout_s=_STEP_TIMEOUT_S
    ).response
    return Check(name="golden samples", passed=found["ok"], detail=found["detail"])


def _placement(
    folder: Path,
    samples: str | None,
    most: float,
    threads: int | None,
    device: Device,
    scratch: Path,
) -> Check:
    """Which unit does how much of a run, as the runtime on the device tells."""
    manifest = read_manifest(folder)
    check_single(manifest)
    component = manifest.components[0]
    if not component.unit:
        raise InputError(
            "--max-fallback: the bundle does not say on which unit it is meant to run; "
            "make it again with: edgesdk deploy"
        )
    inputs = tuple(info for info, _ in component.inputs)
    found = device.run_step(
        "edgesdk.steps:look_inside",
        {
            "backend": component.engine.name,
            "artifact": (folder / component.main).resolve(),
            "files": folder.resolve(),
            "execution": component.execution,
            "threads": threads or component.threads or device.machine().logical_cores,
            "rows": _any_rows(inputs, samples).evaluation.subset(TIMED_ROWS),
            "simulate": device.simulates,
            "runs": 1 if device.tells != "times" else PROFILED_RUNS,
        },
        folder=scratch,
        timeout_s=_STEP_TIMEOUT_S,
    ).response
    times = () if device.tells != "times" else found["node_times"]
    shares = unit_shares(
        [NodePlacement(**item) for item in found["placement"]],
        [NodeTime(**item) for item in times],
        wanted=component.unit,
        evidence=device.evidence,
    )
    problem = gate_problem(shares, most, component.engine.name)
    return Check(name="placement", passed=problem is None, detail=problem or str(shares))


def _quality(
    folder: Path,
    model: Path,
    samples: str,
    metrics: Sequence[str],
    floors: Sequence[str],
    threads: int | None,
    device: Device,
    scratch: Path,
) -> list[Check]:
    """The check of a deploy, again: the bundle against the original on these samples."""
    facts = read_model(model)
    manifest = read_manifest(folder)
    if facts.sha256 != manifest.model.sha256:
        raise InputError(
            f"{model} is not the model that this bundle was made from ({manifest.model.name}, "
            f"sha256 {manifest.model.sha256[:12]}…)"
        )
    rows = read_samples(samples, facts.inputs, store=Cache().root / "samples").evaluation
    names = [absolute_reference(name) for name in metrics]
    component = manifest.components[0]
    common = {
        "threads": threads or component.threads or device.machine().logical_cores,
        "rows": rows,
    }
    original = {"artifact": model.resolve(), "files": _files(model)}
    device.run_step(
        "edgesdk.steps:reference",
        {**common, **original, "backend": "onnxruntime", "execution": "fp32"},
        folder=scratch / "reference",
        timeout_s=_STEP_TIMEOUT_S,
    )
    done = device.run_step(
        "edgesdk.steps:check",
        {
            **common,
            "backend": component.engine.name,
            "artifact": (folder / component.main).resolve(),
            "files": folder.resolve(),
            "execution": component.execution,
            "simulate": device.simulates,
            "reference": scratch / "reference" / "outputs",
            "metrics": names,
            "golden": 0,
        },
        folder=scratch / "check",
        timeout_s=_STEP_TIMEOUT_S,
    )
    quality = judge(
        Record.from_json(done.response["record"]),
        parse_floor(",".join(floors), own_names(names)) if floors else (),
        [load_metric(name) for name in names],
    )
    return [
        Check(
            name="quality",
            passed=quality.verdict == Verdict.PASS,
            detail=f"{quality.verdict}: {quality.reason}",
        )
    ]


def _any_rows(inputs: tuple[TensorInfo, ...], samples: str | None) -> Samples:
    store = Cache().root / "samples"
    if samples is not None:
        return read_samples(samples, inputs, store=store)
    return synthesise(inputs, count=TIMED_ROWS, seed=0, store=store, dims=assumed_lengths(inputs))


def _files(model: Path) -> list[Path]:
    """An ONNX file and those that hold its weights."""
    return [model.resolve(), *(model.resolve().parent / n for n in open_onnx(model).external_files)]
