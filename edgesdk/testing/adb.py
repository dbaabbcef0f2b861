"""A real adb and adbd for tests, on this machine: unpacked from Debian, not installed.

Neither meets what the user has: the client's server has a port and a key of its own and looks for no
USB devices, emulators or network services; the device's home is a folder of the test.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from edgesdk.cache import Cache
from edgesdk.device.debian import host_architecture, unpack_packages
from edgesdk.files import sha256_file
from edgesdk.testing.openssh import free_port

_SUITE = "forky"  # the first one with an adbd
_PACKAGES = ("adb", "adbd", "libnss-wrapper")
_TOOLS = "usr/lib/android-sdk/platform-tools"
_LOOPBACK = Path(__file__).with_name("loopback.c")
_START_S = 15.0


class Board:
    """A machine with an adbd, which lets in everyone who reaches 127.0.0.1.

    Attributes:
        port: where it listens.
        home: of the user that it runs commands as.
    """

    def __init__(self, folder: Path, cache: Cache) -> None:
        folder.mkdir()
        self.port, self.home, self._folder = free_port(), folder / "home", folder
        self.home.mkdir(mode=0o700)
        self._parts = _unpacked(cache)
        self._process: subprocess.Popen[bytes] | None = None
        self.boot()

    def boot(self) -> None:
        """Start it where it does not run, and wait until it listens."""
        if self._process:
            return
        user = pwd.getpwuid(os.getuid())
        (self._folder / "passwd").write_text(
            f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{self.home}:/bin/sh\n"
        )
        (self._folder / "group").write_text(f"{user.pw_name}:x:{user.pw_gid}:\n")
        wrapper = next(self._parts.glob("usr/lib/*/libnss_wrapper.so"))
        preload = f"{self._parts / 'loopback.so'}:{wrapper}"
        log = self._folder / "log"
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [*_loaded(self._parts, "--preload", preload), str(self._parts / _TOOLS / "adbd")],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=self._folder,
                env={
                    "PATH": os.environ["PATH"],
                    "ADBD_PORT": str(self.port),
                    # It asks for users that only this file has.
                    "NSS_WRAPPER_PASSWD": str(self._folder / "passwd"),
                    "NSS_WRAPPER_GROUP": str(self._folder / "group"),
                },
            )
        _until(lambda: b"adbd started" in log.read_bytes(), f"adbd does not listen; see {log}")

    def kill(self) -> None:
        """End it at once, as when its power is cut; what it had started sees its connection end."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class Client:
    """An adb with a server of its own.

    Attributes:
        folder: has the program `adb`; for the front of PATH.
    """

    def __init__(self, folder: Path, cache: Cache) -> None:
        folder.mkdir()
        self.folder, parts, port = folder, _unpacked(cache), free_port()
        settings = {
            "HOME": folder,
            "ANDROID_USER_HOME": folder / ".android",
            "ANDROID_ADB_SERVER_PORT": port,
            "ADB_USB": 0,
            "ADB_EMU": 0,
            "ADB_MDNS": 0,
            "ADB_LOCAL_TRANSPORT_MAX_PORT": 5554,
        }
        words = ["env", "-i", *(f"{name}={value}" for name, value in settings.items())]
        words += [*_loaded(parts), str(parts / _TOOLS / "adb")]
        self._program = folder / "adb"
        self._program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self._program.chmod(0o755)
        with (folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [str(self._program), "nodaemon", "server"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        _until(lambda: _listens(port), f"adb's server does not listen; see {folder / 'log'}")

    def run(self, *arguments: str) -> str:
        """What the program prints."""
        done = subprocess.run(
            [str(self._program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S,
        )
        return done.stdout + done.stderr

    def connect(self, port: int) -> str:
        """Have the server know the adbd at a port of 127.0.0.1; its serial number."""
        serial = f"127.0.0.1:{port}"
        told = self.run("connect", serial)
        assert "connected to" in told, told
        return serial

    def freeze(self) -> None:
        """Have the server hang."""
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._server.kill()
        self._server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(holds: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + _START_S
    while not holds():
        assert time.monotonic() < deadline, problem
        time.sleep(0.02)


def _loaded(parts: Path, *options: str) -> list[str]:
    """What runs one of the programs: the loader that came with it, whatever this machine has."""
    libraries = sorted(parts.glob("usr/lib/*-linux-gnu"))
    folders = [*libraries, *(folder / "android" for folder in libraries)]
    (loader,) = parts.glob("usr/lib/*-linux-gnu/ld-linux*.so*")
    return [str(loader), "--library-path", ":".join(map(str, folders)), *options]


def _unpacked(cache: Cache) -> Path:
    architecture = host_architecture()

    def build(folder: Path) -> None:
        unpack_packages(_SUITE, architecture, _PACKAGES, folder)
        for unneeded in ("etc", "usr/share"):
            shutil.rmtree(folder / unneeded, ignore_errors=True)
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(folder / "loopback.so")]
        subprocess.run([*command, str(_LOOPBACK)], check=True)

    key = cache.key(
        "test-adb",
        suite=_SUITE,
        architecture=architecture,
        packages=list(_PACKAGES),
        loopback=sha256_file(_LOOPBACK),
    )
    return cache.folder(key, build)
