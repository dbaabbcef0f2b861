"""The GPU of this machine, asked through CUDA's driver library; no toolkit is needed."""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesdk.errors import BackendUnavailable

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of `CUdevice_attribute` (CUDA Driver API)."""
_NAME_BYTES = 256
_RELEASES = ("etc/nv_tegra_release", "proc/driver/nvidia/version")
"""The release of a Jetson's board support package, or of a desktop driver, in the first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What an engine is built for.

    Attributes:
        name: as CUDA tells it: `Orin`.
        capability: compute capability: `8.7`.
        driver: CUDA version of the driver, and the release of the driver where a file tells it.
    """

    name: str
    capability: str
    driver: str

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


def find_gpu(library: str = LIBRARY, root: Path = Path("/")) -> Gpu:
    """The first GPU.

    Args:
        library: CUDA's driver library, by name or path.
        root: where the system's files are.

    Raises:
        BackendUnavailable: there is no driver, or no GPU that it can use.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as exc:
        raise BackendUnavailable(f"no NVIDIA driver on this machine ({exc})") from exc
    _call(cuda, "cuInit", 0)
    version, device = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(cuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    release = _release(root)
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"{numbers[0]}.{numbers[1]}",
        driver=f"{driver}, {release}" if release else driver,
    )


def _call(cuda: Any, function: str, *arguments: Any) -> None:
    status = getattr(cuda, function)(*arguments)
    if status:
        raise BackendUnavailable(f"no GPU that CUDA can use: {function} returned {status}")


def _release(root: Path) -> str:
    for name in _RELEASES:
        file = root / name
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip("# ")
    return ""
