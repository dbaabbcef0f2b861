"""Processors that can be emulated: what the emulator is told, and what the guest sees of them."""

from __future__ import annotations

from dataclasses import dataclass

from edgesdk.errors import DeviceError
from edgesdk.machine import parse_cpuinfo
from edgesdk.usercode import did_you_mean

_ARM_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARM_82 = "atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One processor.

    Attributes:
        name: what comes after `emulated:`.
        title: for people.
        arch: `aarch64` or `x86_64`.
        option: what the emulator's `-cpu` takes.
        cpuinfo: lines of `/proc/cpuinfo` besides the processor's number.
    """

    name: str
    title: str
    arch: str
    option: str
    cpuinfo: tuple[str, ...]

    def proc_cpuinfo(self) -> str:
        """The text of `/proc/cpuinfo` on a machine with one such processor.

        Engines take features from it; the emulator would show them the host's.
        """
        return "\n".join(("processor\t: 0", *self.cpuinfo, "", ""))


def _arm(name: str, title: str, part: str, features: str, *, option: str = "") -> Core:
    lines = (
        "BogoMIPS\t: 100.00",
        f"Features\t: {features}",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        f"CPU part\t: {part}",
        "CPU revision\t: 0",
    )
    return Core(name=name, title=title, arch="aarch64", option=option or name, cpuinfo=lines)


# Part numbers: MIDR_EL1 in the technical reference manuals of the cores.
CORES: tuple[Core, ...] = (
    _arm("cortex-a53", "Arm Cortex-A53", "0xd03", _ARM_BASE),
    _arm("cortex-a72", "Arm Cortex-A72", "0xd08", _ARM_BASE),
    _arm("cortex-a76", "Arm Cortex-A76", "0xd0b", f"{_ARM_BASE} {_ARM_82}"),
    _arm(
        "armv8.6",
        "an Armv8.6 core with i8mm, bf16 and SVE2",
        "0x000",
        f"{_ARM_BASE} {_ARM_82} sve sve2 i8mm bf16",
        option="max,sme=off",  # SME is emulated instruction by instruction, 30 times as slowly
    ),
    Core(
        name="haswell",
        title="Intel Haswell (AVX2, no VNNI)",
        arch="x86_64",
        option="Haswell",
        cpuinfo=(
            "vendor_id\t: GenuineIntel",
            "cpu family\t: 6",
            "model\t\t: 60",
            "model name\t: Intel Core Processor (Haswell)",
            "physical id\t: 0",
            "siblings\t: 1",
            "core id\t\t: 0",
            "cpu cores\t: 1",
            "flags\t\t: fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush "
            "mmx fxsr sse sse2 syscall nx rdtscp lm constant_tsc pni pclmulqdq ssse3 fma cx16 "
            "sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm fsgsbase bmi1 avx2 "
            "bmi2 erms",
        ),
    ),
)


def core_named(name: str) -> Core:
    """The processor of that name.

    Raises:
        DeviceError: there is none.
    """
    known = {core.name: core for core in CORES}
    if name not in known:
        raise DeviceError(
            f"no emulated processor {name!r}{did_you_mean(name, list(known))}; legal: {', '.join(known)}"
        )
    return known[name]


def cores_like(arch: str, features: frozenset[str]) -> tuple[Core, ...]:
    """Processors of an architecture that have exactly these features, in a profile's words."""
    return tuple(
        core
        for core in CORES
        if core.arch == arch and parse_cpuinfo(core.proc_cpuinfo()).features == features
    )
