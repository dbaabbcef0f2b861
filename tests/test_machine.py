import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.machine import (
    ARM_FEATURES,
    X86_FEATURES,
    detect,
    parse_cpu_max,
    parse_cpuinfo,
    parse_meminfo,
    parse_memory_limit,
    parse_self_cgroup,
)

# Recorded from machines: a Sapphire Rapids virtual machine, a Raspberry Pi 5 and a Raspberry Pi 4.
SAPPHIRE_RAPIDS = """processor	: {number}
vendor_id	: GenuineIntel
cpu family	: 6
model		: 207
model name	: Intel(R) Xeon(R) Processor
stepping	: 2
cpu MHz		: 2100.000
physical id	: 0
siblings	: 2
core id		: {core}
cpu cores	: 2
flags		: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush \
mmx fxsr sse sse2 ss ht syscall nx pdpe1gb rdtscp lm constant_tsc rep_good nopl \
xtopology cpuid pni pclmulqdq ssse3 fma cx16 pcid sse4_1 sse4_2 x2apic movbe \
popcnt aes xsave avx f16c rdrand hypervisor lahf_lm abm fsgsbase tsc_adjust bmi1 \
avx2 smep bmi2 erms invpcid avx512f avx512dq rdseed adx smap avx512ifma \
clflushopt clwb avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec xgetbv1 xsaves \
avx_vnni avx512_bf16 wbnoinvd arat avx512vbmi umip pku ospke avx512_vbmi2 gfni \
vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq rdpid bus_lock_detect \
cldemote movdiri movdir64b fsrm md_clear serialize tsxldtrk ibt amx_bf16 \
avx512_fp16 amx_tile amx_int8 flush_l1d arch_capabilities
bugs		: spectre_v1 spectre_v2 spec_store_bypass swapgs
bogomips	: 4200.00
"""
PI_5_CORE = """processor	: {number}
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid \
asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1
"""
PI_5 = "\n".join(PI_5_CORE.format(number=number) for number in range(4)) + (
    "\nRevision	: d04170\nSerial		: 0\nModel		: Raspberry Pi 5 Model B Rev 1.0\n"
)
PI_4_CORE = """processor	: {number}
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3
"""
PI_4 = "\n".join(PI_4_CORE.format(number=number) for number in range(4)) + (
    "\nHardware	: BCM2711\nModel		: Raspberry Pi 4 Model B Rev 1.1\n"
)


def sapphire_rapids(cores: dict[int, int]) -> str:
    return "\n".join(SAPPHIRE_RAPIDS.format(number=n, core=c) for n, c in cores.items())


def test_the_features_of_a_server_cpu_are_read() -> None:
    cpu = parse_cpuinfo(sapphire_rapids({0: 0, 1: 1}))
    assert cpu.model == "Intel(R) Xeon(R) Processor"
    assert cpu.board == ""
    assert cpu.features == set(X86_FEATURES) - {"avx_vnni_int8", "amx_fp16"}


def test_hyperthreads_share_a_physical_core() -> None:
    cpu = parse_cpuinfo(sapphire_rapids({0: 0, 1: 0, 2: 1, 3: 1}))
    assert [number for number, _ in cpu.cores] == [0, 1, 2, 3]
    assert len({core for _, core in cpu.cores}) == 2


@pytest.mark.parametrize(
    ("text", "model", "board", "features"),
    [
        (PI_5, "Cortex-A76", "Raspberry Pi 5 Model B Rev 1.0", {"neon", "neon_dotprod", "fp16"}),
        (PI_4, "Cortex-A72", "Raspberry Pi 4 Model B Rev 1.1", {"neon"}),
    ],
)
def test_a_raspberry_pi_is_recognised(
    text: str, model: str, board: str, features: set[str]
) -> None:
    cpu = parse_cpuinfo(text)
    assert (cpu.model, cpu.board) == (model, board)
    assert cpu.features == features
    assert len({core for _, core in cpu.cores}) == 4


def test_only_what_every_core_can_do_counts() -> None:
    mixed = PI_4_CORE.format(number=0) + "\n" + PI_5_CORE.format(number=1)
    assert parse_cpuinfo(mixed).features == {"neon"}


@given(st.text())
def test_any_text_is_read_without_raising(text: str) -> None:
    assert parse_cpuinfo(text).features <= {*X86_FEATURES, *ARM_FEATURES.values()}
    assert (parse_meminfo(text) or 0) >= 0
    assert (parse_cpu_max(text) or 1) >= 1
    assert (parse_memory_limit(text) or 1) >= 1
    parse_self_cgroup(text)


def test_memory_is_read_in_bytes() -> None:
    assert parse_meminfo("MemTotal:        8252368 kB\nMemFree:  3798880 kB\n") == 8252368 * 1024
    assert parse_meminfo("no such line") is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1), ("-1 100000", None)],
)
def test_a_cpu_quota_is_whole_cores_and_at_least_one(text: str, cores: int | None) -> None:
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize(
    ("text", "limit"), [("max\n", None), ("268435456\n", 1 << 28), ("9223372036854771712", None)]
)
def test_an_absent_memory_limit_is_no_limit(text: str, limit: int | None) -> None:
    assert parse_memory_limit(text) == limit


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def test_the_strictest_limit_of_the_cgroup_and_its_parents_holds(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": PI_5,
        "proc/meminfo": "MemTotal: 8252368 kB\n",
        "proc/self/cgroup": "0::/app.slice/job\n",
        "sys/fs/cgroup/app.slice/memory.max": "1073741824\n",
        "sys/fs/cgroup/app.slice/job/memory.max": "max\n",
        "sys/fs/cgroup/app.slice/job/cpu.max": "100000 100000\n",
    }
    machine = detect(write(tmp_path, files))
    assert machine.memory_bytes == 1 << 30
    assert machine.logical_cores == 1


def test_limits_of_the_older_cgroups_hold_too(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 8252368 kB\n",
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n0::/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "268435456\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    machine = detect(write(tmp_path, files))
    assert (machine.memory_bytes, machine.logical_cores) == (1 << 28, 1)


def test_the_board_comes_from_the_device_tree(tmp_path: Path) -> None:
    model = "NVIDIA Jetson Orin Nano Developer Kit\0"
    assert detect(write(tmp_path, {"proc/device-tree/model": model})).board == model[:-1]


def test_a_system_without_proc_is_unknown_not_an_error(tmp_path: Path) -> None:
    machine = detect(tmp_path)
    assert machine.features == frozenset()
    assert machine.physical_cores is None
    assert machine.memory_bytes is None
    assert machine.logical_cores >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's own interfaces")
def test_this_machine_is_described_truly() -> None:
    machine = detect()
    flags = set(Path("/proc/cpuinfo").read_text().split())
    kernel_word = {word: flag for flag, word in ARM_FEATURES.items()}
    assert all(kernel_word.get(word, word) in flags for word in machine.features)
    assert 1 <= machine.logical_cores <= len(os.sched_getaffinity(0))
    assert machine.memory_bytes is not None
    assert machine.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.to_json()["features"] == sorted(machine.features)
