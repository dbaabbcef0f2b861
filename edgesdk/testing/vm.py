"""A small ARM computer for tests: a whole system under emulation, reached over SSH.

It has its own kernel, memory and disk, so that running out of them, and losing power, are real. Made
from Debian packages and wheels into the cache; no root is needed, nothing is installed.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

from edgesdk.cache import Cache
from edgesdk.device.debian import host_architecture, unpack_packages
from edgesdk.device.wheels import distributions_of, pinned, unpacked_wheels
from edgesdk.testing.openssh import free_port, make_key

_SUITE, _PYTHON, _GLIBC = "bookworm", "3.11", 36
_PACKAGES = (
    "busybox-static",
    f"libpython{_PYTHON}-stdlib",
    "libstdc++6",
    "linux-image-cloud-arm64",
    "openssh-server",
    f"python{_PYTHON}-minimal",
    "zlib1g",
)
_MODULES = (
    *("virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("virtio_blk", "failover", "net_failover", "virtio_net"),
)
_DISK_MIB = 640
_BOOT_S = 120.0
_FIRST = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /$module.ko; done
while ! [ -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /system
exec /bin/busybox switch_root /system /start
"""
_START = """#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /run/sshd /tmp
busybox mount -t devpts pts /dev/pts
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip addr add 10.0.2.15/24 dev eth0
while true; do /usr/sbin/sshd -D -e; busybox sleep 1; done
"""
_SSHD = """
HostKey /etc/ssh/host
AuthorizedKeysFile /etc/ssh/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""


def missing_tools() -> list[str]:
    """What this machine lacks for making and reaching one."""
    return [name for name in ("apt-get", "mke2fs", "ssh") if not _tool(name)]


def _tool(name: str) -> str:
    """A program, also where the user's path leaves the system's folders out; empty if absent."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or ""


class Machine:
    """A running one. What is written to its disk is there again after `cut_power` and `boot`.

    Attributes:
        port: where its SSH server is reached, on 127.0.0.1.
        user: who may log in, with the key `identity`.
        known_hosts: knows its key.
    """

    user = "root"

    def __init__(self, folder: Path, cache: Cache, *, memory_mib: int = 512) -> None:
        self.port, self._folder, self._memory_mib = free_port(), folder, memory_mib
        self.identity, self.known_hosts = folder / "identity", folder / "known_hosts"
        self._emulator, self._parts = _emulator(cache), _parts(cache)
        shutil.copyfile(self._parts / "identity", self.identity)
        self.identity.chmod(0o600)
        public = (self._parts / "host.pub").read_text(encoding="utf-8").split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(public)}\n")
        subprocess.run(
            ["cp", "--sparse=always", str(self._parts / "disk.img"), str(folder / "disk.img")],
            check=True,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.boot()

    def boot(self) -> None:
        """Switch it on, and wait until it answers."""
        libraries = ":".join(map(str, sorted(self._emulator.glob("*lib/*-linux-gnu"))))
        libraries += ":" + ":".join(map(str, sorted(self._emulator.glob("usr/lib/*-linux-gnu"))))
        loader = sorted(self._emulator.glob("lib/*/ld-linux*.so*"))[0]
        with (self._folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [
                    *(str(loader), "--library-path", libraries),
                    str(self._emulator / "usr/bin/qemu-system-aarch64"),
                    *("-M", "virt", "-cpu", "cortex-a76", "-m", str(self._memory_mib)),
                    *("-smp", "1", "-display", "none", "-serial", "stdio", "-nodefaults"),
                    *("-device", "virtio-net-pci,netdev=net,romfile="),
                    *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
                    *("-drive", f"file={self._folder / 'disk.img'},format=raw,if=virtio"),
                    *("-kernel", str(self._parts / "vmlinuz")),
                    *("-initrd", str(self._parts / "first.cpio")),
                    *("-append", "console=ttyAMA0 quiet panic=-1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        deadline = time.monotonic() + _BOOT_S
        while self.run("true").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                told = (self._folder / "console.log").read_text(errors="replace")[-2000:]
                self.cut_power()
                raise AssertionError(f"the machine does not answer: {told}")
            time.sleep(0.5)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A shell command there."""
        return subprocess.run(
            [
                *("ssh", "-F", "none", "-T", "-i", str(self.identity), "-p", str(self.port)),
                *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "BatchMode=yes"),
                *("-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"),
                f"{self.user}@127.0.0.1",
                command,
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    def cut_power(self) -> None:
        """Nothing is written any more."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def _emulator(cache: Cache) -> Path:
    architecture = host_architecture()

    def build(folder: Path) -> None:
        unpack_packages(_SUITE, architecture, ["qemu-system-arm"], folder)
        for unneeded in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var", "etc"):
            shutil.rmtree(folder / unneeded, ignore_errors=True)

    key = cache.key("test-vm-emulator", suite=_SUITE, architecture=architecture)
    return cache.folder(key, build)


def _parts(cache: Cache) -> Path:
    """Kernel, first file system, disk and keys."""
    pins = pinned(distributions_of(["onnxruntime"]))
    wheels = unpacked_wheels(cache, pins, arch="aarch64", python=_PYTHON, glibc=_GLIBC)

    def build(folder: Path) -> None:
        system = folder / "system"
        unpack_packages(_SUITE, "arm64", _PACKAGES, system)
        (kernel,) = (system / "boot").glob("vmlinuz-*")
        shutil.move(kernel, folder / "vmlinuz")
        _write_first(system, folder / "first.cpio")
        for unneeded in ("boot", "lib/modules", "usr/share", "var/lib/dpkg"):
            shutil.rmtree(system / unneeded, ignore_errors=True)
        for name in ("host", "identity"):
            make_key(folder / name)
        _furnish(system, folder)
        shutil.copytree(wheels, system / "usr/lib/python3/dist-packages", dirs_exist_ok=True)
        (system / "usr/lib/python3/dist-packages/entry.json").unlink(missing_ok=True)
        subprocess.run(
            [
                *(_tool("mke2fs"), "-q", "-t", "ext4", "-d", str(system), "-E", "root_owner=0:0"),
                *(str(folder / "disk.img"), f"{_DISK_MIB}M"),
            ],
            check=True,
        )
        shutil.rmtree(system)

    key = cache.key("test-vm", packages=list(_PACKAGES), wheels=wheels.name, disk=_DISK_MIB)
    return cache.folder(key, build)


def _furnish(system: Path, keys: Path) -> None:
    """Users, the SSH server's configuration, and what is started."""
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc/ssh"):
        (system / name).mkdir(parents=True, exist_ok=True)
    files = {
        "etc/passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
        "etc/shadow": "root:*:1::::::\n",
        "etc/ssh/sshd_config": _SSHD,
        "etc/ssh/host": (keys / "host").read_text(encoding="utf-8"),
        "etc/ssh/authorized": (keys / "identity.pub").read_text(encoding="utf-8"),
        "start": _START,
    }
    for place, text in files.items():
        (system / place).write_text(text, encoding="utf-8")
    (system / "start").chmod(0o755)
    (system / "etc/ssh/host").chmod(0o600)
    for name in ("sh", "env", "ls"):
        program = system / "bin" / name
        if not program.exists() and not program.is_symlink():
            program.symlink_to("busybox")
    python = system / "usr/bin/python3"
    if not python.exists():
        python.symlink_to(f"python{_PYTHON}")


def _write_first(system: Path, target: Path) -> None:
    """The file system that the kernel starts with: it loads the disk's driver."""
    modules = {
        name: next((system / "lib/modules").rglob(f"{name}.ko")).read_bytes() for name in _MODULES
    }
    files: list[tuple[str, int, bytes]] = [
        *((name, 0o040755, b"") for name in ("bin", "dev", "system")),
        ("bin/busybox", 0o100755, (system / "bin/busybox").read_bytes()),
        ("init", 0o100755, _FIRST.format(modules=" ".join(_MODULES)).encode()),
        *((f"{name}.ko", 0o100644, data) for name, data in modules.items()),
        ("TRAILER!!!", 0, b""),
    ]
    with target.open("wb") as stream:
        for number, (name, mode, data) in enumerate(files, 1):
            stream.write(_cpio_entry(number, name, mode, data))


def _cpio_entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One file in the format that the kernel reads (Documentation/driver-api/early-userspace)."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
