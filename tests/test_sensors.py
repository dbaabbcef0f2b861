"""Power and temperature: formats as documented, files in a folder that stands for the system's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.measure.sensors import (
    Reading,
    parse_tegrastats,
    read_ina3221,
    read_sensor,
    read_sensors,
)
from edgesdk.profile import load_profile
from edgesdk.profile_values import Sensor

DOCUMENTED = Path(__file__).parent / "fixtures" / "tegrastats.txt"
NANO, AGX, OLD = (
    line for line in DOCUMENTED.read_text("utf-8").splitlines() if not line.startswith("#")
)


def values(readings: tuple[Reading, ...], kind: str) -> dict[str, float]:
    return {item.name: item.value for item in readings if item.kind == kind}


def test_rails_and_zones_of_an_orin_nano() -> None:
    found = parse_tegrastats(NANO)
    assert values(found, "power") == {"VDD_IN": 4123, "VDD_CPU_GPU_CV": 512, "VDD_SOC": 1230}
    assert values(found, "temperature") == {
        "cpu": 48.5,
        "soc2": 47.281,
        "soc0": 46.5,
        "gpu": 47.75,
        "tj": 48.5,
        "soc1": 47.0,
    }
    assert {item.unit for item in found} == {"mW", "°C"}


def test_zones_and_rails_that_are_switched_off_are_left_out() -> None:
    found = parse_tegrastats(AGX)
    assert set(values(found, "power")) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
    assert set(values(found, "temperature")) == {"CPU", "Tboard", "tj"}


def test_old_lines_have_no_units() -> None:
    found = parse_tegrastats(OLD)
    assert values(found, "power") == {"VDD_SYS_GPU": 153, "VDD_IN": 3140}
    assert values(found, "temperature") == {"PLL": 42.5, "PMIC": 100.0}


@given(text=st.text())
def test_any_line_is_read_or_left(text: str) -> None:
    for reading in parse_tegrastats(text):
        assert reading.unit in ("mW", "°C")


@given(
    rails=st.dictionaries(
        st.from_regex(r"VDD_[A-Z]{1,6}", fullmatch=True), st.integers(0, 10**5), max_size=4
    ),
    zones=st.dictionaries(
        st.from_regex(r"[a-z]{1,6}\d?", fullmatch=True), st.integers(-40_000, 120_000)
    ),
)
@settings(max_examples=40)
def test_every_rail_and_zone_is_found(rails: dict[str, int], zones: dict[str, int]) -> None:
    told = [f"{name}@{milli / 1e3:.3f}C" for name, milli in zones.items()]
    told += [f"{name} {value}mW/{value + 1}mW" for name, value in rails.items()]
    line = " ".join(("RAM 1/2MB", *told))
    found = parse_tegrastats(line)
    assert values(found, "power") == rails
    assert values(found, "temperature") == pytest.approx({n: m / 1e3 for n, m in zones.items()})


def chip(root: Path, address: str, *channels: tuple[str, str, str]) -> Path:
    """An INA3221 whose channels have a label, millivolts and milliamperes."""
    folder = root / f"sys/bus/i2c/drivers/ina3221/{address}/hwmon/hwmon1"
    folder.mkdir(parents=True)
    for number, contents in enumerate(channels, start=1):
        names = "in{}_label", "in{}_input", "curr{}_input"
        for name, content in zip(names, contents, strict=True):
            (folder / name.format(number)).write_text(f"{content}\n")
    return folder


def test_the_power_of_a_rail_is_its_voltage_times_its_current(tmp_path: Path) -> None:
    rails = ("VDD_IN", "5000", "824"), ("VDD_CPU_GPU_CV", "4992", "104"), ("NC", "0", "0")
    first = chip(tmp_path, "1-0040", *rails)
    (first / "in7_label").write_text("sum of shunt voltages")
    second = chip(tmp_path, "1-0041", ("CV", "5000", "10"), ("VDDQ", "not a number", "3"))
    (second / "in1_enable").write_text("0")
    found = values(read_ina3221(tmp_path), "power")
    silent = command("no-such-folder/tegrastats")
    assert values(read_sensor(silent, tmp_path), "power") == found
    assert found == pytest.approx({"VDD_IN": 4120.0, "VDD_CPU_GPU_CV": 519.168})
    assert read_ina3221(tmp_path / "elsewhere") == ()


def test_zones_of_a_profile_are_read_by_their_names(tmp_path: Path) -> None:
    for number, (name, milli) in enumerate((("cpu-thermal", "48500"), ("gpu-thermal", "-256000"))):
        zone = tmp_path / f"sys/devices/virtual/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(name)
        (zone / "temp").write_text(milli)
    heat = next(s for s in load_profile("jetson").sensors if s.kind == "temperature")
    assert read_sensor(heat, tmp_path) == (
        Reading(name="cpu-thermal", kind="temperature", value=48.5, unit="°C"),
    )


def command(text: str, kind: str = "power") -> Sensor:
    return Sensor(name="it", kind=kind, read="command", at=text, unit="mW")  # type: ignore[arg-type]


def test_a_command_that_never_ends_is_stopped_after_its_first_line(tmp_path: Path) -> None:
    endless = tmp_path / "tegrastats"
    endless.write_text(f"#!/bin/sh\necho '{NANO}'\nexec sleep 600\n")
    endless.chmod(0o755)
    assert values(read_sensor(command(str(endless))), "power")["VDD_IN"] == 4123
    assert set(values(read_sensor(command(str(endless), "temperature")), "temperature")) >= {"tj"}


def test_flags_and_values_of_a_command_are_read() -> None:
    flags = Sensor(
        name="throttling",
        kind="throttling",
        read="command",
        at=f"{sys.executable} -c 'print(\"throttled=0x50005\")'",
        unit="flags",
    )
    assert read_sensor(flags)[0].value == 0x50005
    warm = f"{sys.executable} -c \"print('temp=48.3')\""
    assert read_sensor(command(warm))[0].value == 48.3


@pytest.mark.parametrize("text", ["there-is-no-such-command", "true", "echo nothing"])
def test_what_says_nothing_is_left_out(text: str) -> None:
    assert read_sensors([command(text)]) == ()
