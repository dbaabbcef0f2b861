"""Where the time goes: one artifact on a device, cold and warm, per operation and unit."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.cache import Cache
from edgesdk.device.find import LOCAL, find_device, is_timed
from edgesdk.errors import DeviceError
from edgesdk.measure.alone import Alone, measure_alone
from edgesdk.measure.settings import Inputs, Settings
from edgesdk.opened import open_target
from edgesdk.profile import load_profile
from edgesdk.samples import INPUT_PREFIX, Samples, assumed_lengths, read_samples, synthesise
from edgesdk.signature import TensorInfo

_RUNS = 30
_STEP_TIMEOUT_S = 900.0
SYNTHETIC_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiling:
    """What was found out about one artifact.

    Attributes:
        target: what was profiled, as the user named it.
        synthetic: the inputs were made up, because no samples were given and the bundle had none.
        alone: cold and warm figures.
        node_times: mean time per executed node, slowest first; empty where the engine cannot tell.
        placement: where each executed node ran.
    """

    target: str
    backend: str
    execution: str
    synthetic: bool
    alone: Alone
    node_times: tuple[NodeTime, ...]
    placement: tuple[NodePlacement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


def profile_target(
    target: Path,
    *,
    samples: str | None,
    backend: str,
    execution: str,
    threads: int | None,
    device: str = LOCAL,
    profile: str | None = None,
) -> Profiling:
    """Profile a bundle or an ONNX file.

    Args:
        target: a bundle (folder or zip) or an ONNX file.
        samples: real inputs; else a bundle's golden ones, else made-up ones.
        backend, execution: for an ONNX file; a bundle says its own.
        threads: None for what the bundle says, or all usable cores.
        device: where; see `edgesdk.device.find`.
        profile: name or file of the device's profile, for its sensors; None to read none.

    Raises:
        DeviceError: the device cannot be reached or used, or tells no times.
        InputError: neither a bundle nor an ONNX file, samples that do not fit, or no such profile.
        BackendUnavailable: the engine is not usable here.
        StepFailed: the engine crashed, hung or refused.
    """
    if not is_timed(device):
        raise DeviceError(
            f"{device} tells no times: what is emulated takes as long as the emulator takes; "
            "profile on the device itself, or count instructions with: edgesdk deploy"
        )
    settings = Settings(sensors=load_profile(profile).sensors if profile else ())
    with tempfile.TemporaryDirectory(prefix="edgesdk-profile-") as name:
        scratch = Path(name)
        opened, signature, _ = open_target(
            target, scratch, backend=backend, execution=execution, threads=threads
        )
        rows = _rows(target, samples, signature)
        timed = rows.evaluation.subset(8)
        inputs = Inputs(
            names=tuple(info.name for info in signature), rows=timed.paths(), prefix=INPUT_PREFIX
        )
        with closing(find_device(device, [opened.backend], Cache())) as place:
            opened = replace(opened, threads=opened.threads or place.machine().logical_cores)
            alone = measure_alone(opened, inputs, settings, place, scratch / "measure")
            response = place.run_step(
                "edgesdk.steps:look_inside",
                {
                    "backend": opened.backend,
                    "artifact": opened.artifact,
                    "files": opened.all_files(),
                    "execution": opened.execution,
                    "threads": opened.threads,
                    "rows": timed,
                    "runs": _RUNS,
                },
                folder=scratch / "inside",
                timeout_s=_STEP_TIMEOUT_S,
            ).response
    times = sorted((NodeTime(**item) for item in response["node_times"]), key=lambda t: -t.ms)
    return Profiling(
        target=str(target),
        backend=opened.backend,
        execution=opened.execution,
        synthetic=rows.synthetic,
        alone=alone,
        node_times=tuple(times),
        placement=tuple(
            NodePlacement(**{**item, "origin": tuple(item["origin"])})
            for item in response["placement"]
        ),
    )


def _rows(target: Path, samples: str | None, inputs: tuple[TensorInfo, ...]) -> Samples:
    store = Cache().root / "samples"
    if samples is not None:
        return read_samples(samples, inputs, store=store)
    return synthesise(
        inputs, count=SYNTHETIC_ROWS, seed=0, store=store, dims=assumed_lengths(inputs)
    )
