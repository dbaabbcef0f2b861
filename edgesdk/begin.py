"""From a request to the bench that its trials share: limits, threads, and what a figure will prove."""

from __future__ import annotations

from dataclasses import replace

from edgesdk.backend import backend_names, load_backend
from edgesdk.bench import Bench
from edgesdk.device.base import Place
from edgesdk.device.cores import cores_like
from edgesdk.device.find import LOCAL
from edgesdk.device.local import LocalDevice
from edgesdk.device.simulated import SIMULATED
from edgesdk.elsewhere import rows_to_compare
from edgesdk.errors import DeviceError
from edgesdk.events import Listener
from edgesdk.evidence import Evidence
from edgesdk.farm.place import meter_of
from edgesdk.files import sha256_json
from edgesdk.machine import Machine, detect
from edgesdk.measure.settings import Settings
from edgesdk.model import Model
from edgesdk.profile_values import Profile
from edgesdk.request import Request, metrics_of
from edgesdk.samples import Samples
from edgesdk.workshop import Limits, Workshop, memory_limit


def bench_of(
    request: Request,
    facts: Model,
    samples: Samples,
    workshop: Workshop,
    profile: Profile,
    settings: Settings,
    evidence: Evidence,
    listen: Listener,
    *,
    device: Place | None = None,
    machine: Machine | None = None,
) -> Bench:
    """The bench for trials of a model on a device, by default this machine."""
    device, machine = device or LocalDevice(), machine or detect()
    return Bench(
        workshop=workshop,
        model=facts,
        samples=samples,
        budget=request.budget,
        metrics=metrics_of(request),
        threads=1
        if device.tells == "instructions"
        else request.threads or _threads(profile, machine),
        settings=replace(settings, sensors=settings.sensors or profile.sensors),
        device=device,
        profile=profile,
        meter=meter_of(device),
        machine_key=sha256_json([machine.to_json(), device.identity]),
        evidence=evidence,
        listen=listen,
        compared_rows=rows_to_compare(machine),
        training_s=request.training_s,
    )


def limits_of(asked: Limits, model: Model) -> Limits:
    """What each step may take, with a limit on memory that fits the model where none is asked for."""
    if asked.memory_bytes is not None:
        return asked
    return replace(asked, memory_bytes=memory_limit(model.file_bytes))


def evidence_on(profile: Profile, device: Place, machine: Machine) -> Evidence:
    """What a figure taken on a device proves about the profile's.

    Raises:
        DeviceError: it is another device than the profile's.
    """
    if device.simulates:
        return max(_simulations(profile), key=list(Evidence).index, default=Evidence.UNKNOWN)
    mismatch = profile.mismatch(machine)
    if mismatch:
        there = "this machine" if device.name == LOCAL else device.name
        raise DeviceError(
            f"profile {profile.name!r} is another device than {there}: {mismatch}. "
            f"{_instead(profile)}"
            f"See what would be tried there with: edgesdk plan MODEL --profile {profile.name}"
        )
    return profile.proves(machine, device.evidence)


def _instead(profile: Profile) -> str:
    """How to come closer to a device that is not here."""
    if _simulations(profile):
        return f"Without it, its compiler can be asked: --device {SIMULATED}. "
    fitting = [core.name for core in cores_like(profile.arch, profile.features)]
    if not fitting or any(unit.kind != "cpu" for unit in profile.units):
        return ""
    return f"Its processor can be emulated: --device emulated:{fitting[0]}. "


def _simulations(profile: Profile) -> list[Evidence]:
    """What the profile's backends can compute in place of its units is, where they can."""
    known = set(backend_names()).intersection(profile.backends)
    return [kind for name in known if (kind := load_backend(name).simulation)]


def _threads(profile: Profile, machine: Machine) -> int:
    """All cores that both the device and this process have."""
    cores = [int(unit.cores.value) for unit in profile.units if unit.kind == "cpu" and unit.cores]
    return max(1, min([machine.logical_cores, *cores]))
