"""Power and temperature, from the sensors that a profile lists. Runs on the device.

What cannot be read is left out, never guessed. Formats are those of public documentation: NVIDIA Jetson
Linux Developer Guide, "tegrastats Utility"; Linux kernel, Documentation/hwmon/ina3221.rst and
Documentation/driver-api/thermal/sysfs-api.rst; Raspberry Pi documentation, "vcgencmd".
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from edgesdk.profile_values import Sensor, SensorKind

_SCALES = {
    "m°C": ("°C", 1e-3),
    "°C": ("°C", 1.0),
    "uW": ("mW", 1e-3),
    "mW": ("mW", 1.0),
    "uJ": ("J", 1e-6),
    "uA": ("mA", 1e-3),
    "mA": ("mA", 1.0),
    "uV": ("mV", 1e-3),
    "mV": ("mV", 1.0),
    "flags": ("flags", 1.0),
}
"""Raw units, what they are told in, and the factor between them."""

_INA3221 = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
_CHANNELS = (1, 2, 3)
_TIMEOUT_S = 5.0
_OFF_CELSIUS = -256.0
"""What a thermal zone tells whose unit has no power."""

_RAIL = re.compile(r"(?<![\w@])([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?![\w%])")
_DEGREES = re.compile(r"(?<!\S)([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C(?!\w)")
_NOT_RAILS = frozenset(("RAM", "SWAP", "IRAM", "NC"))
_VALUE = re.compile(r"=\s*(0x[0-9a-fA-F]+|-?\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value of one sensor.

    Attributes:
        name: of the rail, the zone or the sensor.
        kind: what it tells.
        value: in `unit`.
        unit: `mW`, `°C`, `mA`, `mV`, `J` or `flags`.
    """

    name: str
    kind: SensorKind
    value: float
    unit: str


def read_sensors(sensors: Iterable[Sensor], root: Path = Path("/")) -> tuple[Reading, ...]:
    """What the sensors of a profile tell now; those that cannot be read are left out."""
    return tuple(reading for sensor in sensors for reading in read_sensor(sensor, root))


def read_sensor(sensor: Sensor, root: Path = Path("/")) -> tuple[Reading, ...]:
    """What one sensor tells now: a value for each file, or for each of its kind that a command prints.

    Where `tegrastats` says nothing, the chips that it reads power from are read directly.

    Args:
        sensor: of a profile.
        root: where the system's files are; commands are this machine's in any case.
    """
    if sensor.read == "sysfs":
        return _read_files(sensor, root)
    line = _first_line(sensor.at)
    if Path(sensor.at.split()[0]).name == "tegrastats":
        told = parse_tegrastats(line) or read_ina3221(root)
        return tuple(item for item in told if item.kind == sensor.kind)
    match = _VALUE.search(line)
    if not match:
        return ()
    raw = float(int(match[1], 16)) if match[1].startswith("0x") else float(match[1])
    return (_reading(sensor, sensor.name, raw),)


def parse_tegrastats(line: str) -> tuple[Reading, ...]:
    """Power of each rail (now, not its average) and temperature of each zone, of one line.

    Rails are `VDD_IN 4123mW/4100mW`, or on old boards `VDD_IN 3140/3208`, in milliwatts; zones
    `cpu@48.5C`. Zones without power are left out.
    """
    power = [
        Reading(name=name, kind="power", value=float(now), unit="mW")
        for name, now, _ in _RAIL.findall(line)
        if name not in _NOT_RAILS
    ]
    warmth = [
        Reading(name=name, kind="temperature", value=float(degrees), unit="°C")
        for name, degrees in _DEGREES.findall(line)
        if float(degrees) != _OFF_CELSIUS
    ]
    return (*power, *warmth)


def read_ina3221(root: Path = Path("/")) -> tuple[Reading, ...]:
    """Power of each rail that an INA3221 watches: bus voltage times current, in milliwatts.

    Jetson boards have one or two of these; their channels are labelled by rail. A channel that is
    switched off, or has no label, is left out.
    """
    found = []
    for folder in sorted(root.glob(_INA3221)):
        for channel in _CHANNELS:
            label = _text(folder / f"in{channel}_label")
            volts = _number(_text(folder / f"in{channel}_input"))
            amps = _number(_text(folder / f"curr{channel}_input"))
            is_off = _text(folder / f"in{channel}_enable") == "0"
            if label and label != "NC" and volts is not None and amps is not None and not is_off:
                power = volts * amps / 1e3
                found.append(Reading(name=label, kind="power", value=power, unit="mW"))
    return tuple(found)


def _read_files(sensor: Sensor, root: Path) -> tuple[Reading, ...]:
    files = sorted(root.glob(sensor.at.lstrip("/")))
    found = []
    for file in files:
        raw = _number(_text(file))
        if raw is not None:
            zone = _text(file.parent / "type") if sensor.kind == "temperature" else ""
            name = zone or sensor.name
            found.append(_reading(sensor, name, raw))
    return tuple(item for item in found if item.value != _OFF_CELSIUS)


def _reading(sensor: Sensor, name: str, raw: float) -> Reading:
    unit, factor = _SCALES.get(sensor.unit, (sensor.unit, 1.0))
    return Reading(name=name, kind=sensor.kind, value=raw * factor, unit=unit)


def _first_line(command: str) -> str:
    """The first line that a command prints; empty where it is not there or says nothing in time.

    `tegrastats` prints a line a second until it is stopped.
    """
    try:
        child = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    except OSError:
        return ""
    with child:
        late = Timer(_TIMEOUT_S, child.kill)
        late.start()
        try:
            assert child.stdout is not None
            return child.stdout.readline().strip()
        finally:
            late.cancel()
            child.kill()


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None
