"""What a measurement is: frozen values, JSON in and out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from edgesdk.errors import DeviceError
from edgesdk.evidence import Evidence
from edgesdk.measure.sensing import Sensed


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Times of single warm runs, in milliseconds.

    Attributes:
        count: runs that were timed.
        runs_ms: the times themselves in order, thinned to at most 2,000 for the record.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    runs_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One artifact on one device.

    Where nothing can be timed, times and memory are None: on an emulated processor the instructions
    of a run are there instead; for a unit that is not here, what its compiler states, if anything.

    Attributes:
        latency: warm runs over the same inputs for every candidate.
        speedup: baseline time / this time, from alternated windows; above 1 is faster. Of
            instructions where these are counted, of `artifact_bytes` where only those are known. The
            baseline's own is exactly 1.
        stable: False means the machine was too noisy to trust: verdict `noisy`.
        import_ms: import of the engine, in a fresh process.
        load_ms: from artifact to ready session, page cache warm.
        first_run_ms: the first run after loading.
        base_mib: peak resident memory before the artifact was opened (interpreter, engine, inputs).
        peak_load_mib, peak_run_mib: peak resident memory while loading, and while running.
        artifact_bytes: size of all files of the artifact.
        threads: threads inside one run.
        evidence: how the times or counts were obtained.
        instructions: executed in a run, in one thread; the mean over the inputs.
        estimate_ms, cycles: of a run, as the compiler for the unit states them.
        working_bytes: memory that a run takes beside the program, as it states.
        sensed: what sensors of the device told while it ran, where it has any of power.
        environment: facts about the machine and the run (CPU, cores, governor, load, versions).
        warnings: what a reader should know (noisy, throttled, other load, few runs).
    """

    speedup: Interval
    stable: bool
    artifact_bytes: int
    threads: int
    evidence: Evidence
    latency: Latency | None = None
    import_ms: float | None = None
    load_ms: float | None = None
    first_run_ms: float | None = None
    base_mib: float | None = None
    peak_load_mib: float | None = None
    peak_run_mib: float | None = None
    instructions: float | None = None
    estimate_ms: float | None = None
    cycles: int | None = None
    working_bytes: int | None = None
    sensed: tuple[Sensed, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def peak_mib(self) -> float | None:
        """Peak resident memory of the whole process, loading and running."""
        known = [mib for mib in (self.peak_load_mib, self.peak_run_mib) if mib is not None]
        return max(known, default=None)

    @property
    def run_mj(self) -> float | None:
        """Millijoules that a run takes: of the sensor that tells the most, as it holds the others.

        A rail of the whole board holds those of its parts. None where no sensor tells power.
        """
        return max((item.run_mj for item in self.sensed if item.run_mj is not None), default=None)

    @property
    def timed(self) -> Latency:
        """The latency of a measurement that must have one, as on this machine.

        Raises:
            DeviceError: there is none on that device.
        """
        if self.latency is None:
            raise DeviceError(f"there are no times: {self._untimed}")
        return self.latency

    @property
    def used_mib(self) -> float:
        """The peak memory of a measurement that must have one, as on this machine.

        Raises:
            DeviceError: there is none on that device.
        """
        if self.peak_mib is None:
            raise DeviceError(f"memory is not known: {self._untimed}")
        return self.peak_mib

    @property
    def _untimed(self) -> str:
        told = "instructions are counted" if self.instructions else "nothing is measured"
        return f"on {self.environment.get('device', 'that device')} {told}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        latency = data["latency"]
        if latency is not None:
            latency = Latency(**{**latency, "runs_ms": tuple(latency["runs_ms"])})
        return cls(
            **{
                **data,
                "latency": latency,
                "speedup": Interval(**data["speedup"]),
                "evidence": Evidence(data["evidence"]),
                "sensed": tuple(Sensed(**item) for item in data["sensed"]),
                "warnings": tuple(data["warnings"]),
            }
        )
