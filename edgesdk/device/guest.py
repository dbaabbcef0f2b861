"""What an emulated processor needs, made from Debian packages and wheels into the cache.

    emulator    qemu's user-mode emulation with the libraries it needs, and the counting plug-in
    system      where the processor is of another architecture than this machine: an interpreter
    engines     ... numpy and the engines for it, as wheels
    payload     edgesdk itself

Nothing is installed on this machine, and no root is needed. About 215 MB on the disk with onnxruntime.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgesdk.cache import Cache
from edgesdk.device.cores import Core
from edgesdk.device.debian import host_architecture, unpack_packages
from edgesdk.device.payload import payload_key, write_payload
from edgesdk.device.wheels import distributions_of, pinned, unpacked_wheels
from edgesdk.errors import DeviceError
from edgesdk.files import sha256_file
from edgesdk.process import COUNTS, Launcher

_SUITE = "bookworm"
"""Its qemu takes plug-ins; those of later releases are built without."""
_PYTHON = "3.11"
_DEBIAN = {"aarch64": "arm64", "x86_64": "amd64"}
_GLIBC = 36
"""The minor version of glibc 2 in that release."""
_PLUGIN, _PLUGIN_SOURCE = "icount.so", "icount.c"


class Guest:
    """A processor made ready to run Python programs.

    Attributes:
        identity: what its programs' results depend on.
    """

    def __init__(self, core: Core, backends: Sequence[str], cache: Cache) -> None:
        """Set it up, or find it in the cache.

        Args:
            core: the processor.
            backends: those whose engines it is to have.
            cache: where the parts are kept.

        Raises:
            DeviceError: a part cannot be made here.
        """
        self._core = core
        self._emulator = _emulator(cache)
        native = core.arch == platform.machine()
        pins = () if native else pinned(distributions_of(backends))
        self._root = _root(cache, core, native=native)
        if native:
            self._python, paths = sys.executable, []
        else:
            self._python = str(self._root / f"usr/bin/python{_PYTHON}")
            wheels = unpacked_wheels(cache, pins, arch=core.arch, python=_PYTHON, glibc=_GLIBC)
            paths = [wheels, _payload(cache)]
        # An emulated process takes seconds to compile what it imports, so that is kept.
        self._environment = {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(cache.root / "bytecode"),
        }
        if paths:
            self._environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        self.identity = f"{core.name} on {self._emulator.name}, {', '.join(pins) or 'as here'}"

    def launcher(self, counts: Path | None = None) -> Launcher:
        """How to start a Python program on it.

        Args:
            counts: a file that takes how many instructions were executed at each mark that the
                program sets; None for none.

        Raises:
            DeviceError: there is no plug-in that counts.
        """
        libraries = os.pathsep.join(map(str, _library_folders(self._emulator)))
        command = [str(_loader(self._emulator)), "--library-path", libraries]
        command += [str(self._emulator / f"usr/bin/qemu-{self._core.arch}")]
        command += ["-cpu", self._core.option, "-L", str(self._root)]
        environment = dict(self._environment)
        if counts is not None:
            plugin = self._emulator / _PLUGIN
            if not plugin.is_file():
                raise DeviceError(
                    "instructions cannot be counted: the plug-in was not built, as there was no C "
                    f"compiler (cc); install one and remove {self._emulator}"
                )
            command += ["-plugin", f"{plugin},out={counts}"]
            environment[COUNTS] = str(counts)
        return Launcher(command=(*command, self._python), environment=environment)


def _emulator(cache: Cache) -> Path:
    """The emulator, run by the dynamic loader that comes with it, whatever this machine has."""
    architecture = host_architecture()
    source = Path(__file__).with_name(_PLUGIN_SOURCE)
    compiler = shutil.which("cc")

    def build(folder: Path) -> None:
        unpack_packages(_SUITE, architecture, ["qemu-user"], folder)
        for tool in (folder / "usr/bin").iterdir():
            if tool.name not in {f"qemu-{arch}" for arch in _DEBIAN}:
                tool.unlink()
        for unneeded in ("usr/share", "etc", "var"):
            shutil.rmtree(folder / unneeded, ignore_errors=True)
        if compiler:
            _compile(compiler, source, folder / _PLUGIN)

    key = cache.key(
        "emulator",
        suite=_SUITE,
        architecture=architecture,
        plugin=sha256_file(source),
        compiler=bool(compiler),
    )
    return cache.folder(key, build)


def _loader(emulator: Path) -> Path:
    """The dynamic loader itself, not the link to it, which leads to this machine's."""
    found = sorted(emulator.glob("lib/*/ld-linux*.so*"))
    if not found:
        raise DeviceError(f"the emulator in {emulator} has no dynamic loader; remove that folder")
    return found[0]


def _library_folders(emulator: Path) -> list[Path]:
    return sorted(
        folder for place in ("lib", "usr/lib") for folder in (emulator / place).glob("*-linux-gnu")
    )


def _root(cache: Cache, core: Core, *, native: bool) -> Path:
    """What programs on the processor see instead of files of this machine.

    The processor's own `/proc/cpuinfo`, from which engines choose their kernels; and for another
    architecture an interpreter with its libraries.
    """
    cpuinfo = core.proc_cpuinfo()

    def build(folder: Path) -> None:
        if not native:
            _interpreter(core.arch, folder)
        (folder / "proc").mkdir(parents=True)
        (folder / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")

    key = cache.key(
        "guest", suite=_SUITE, arch=core.arch, native=native, python=_PYTHON, cpuinfo=cpuinfo
    )
    return cache.folder(key, build)


def _interpreter(arch: str, folder: Path) -> None:
    packages = [f"python{_PYTHON}-minimal", f"libpython{_PYTHON}-stdlib", "libstdc++6", "zlib1g"]
    unpack_packages(_SUITE, _DEBIAN[arch], packages, folder)
    for unneeded in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var"):
        shutil.rmtree(folder / unneeded, ignore_errors=True)


def _payload(cache: Cache) -> Path:
    return cache.folder(cache.key("payload", sources=payload_key()), write_payload)


def _compile(compiler: str, source: Path, target: Path) -> None:
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{source.name} does not compile: {done.stderr[-1500:].strip()}")
