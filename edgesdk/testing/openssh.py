"""A real OpenSSH server for tests, on this machine: unpacked from Debian, not installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edgesdk.cache import Cache
from edgesdk.device.debian import host_architecture, unpack_packages

_PRIVILEGE_SEPARATION = Path("/run/sshd")


class Server:
    """A server that lets in whoever has the key `identity`.

    Attributes:
        port: where it listens, on 127.0.0.1.
        home: of the user that logs in.
        known_hosts: knows the server's key.
    """

    def __init__(self, folder: Path, cache: Cache) -> None:
        self.port, self.home = free_port(), folder / "home"
        self.identity, self.known_hosts = folder / "identity", folder / "known_hosts"
        self.home.mkdir(mode=0o700)
        for key in ("host", "identity"):
            make_key(folder / key)
        public = (folder / "host.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(public)}\n")
        (folder / "sshd_config").write_text(
            f"""
            Port {self.port}
            ListenAddress 127.0.0.1
            HostKey {folder}/host
            PidFile none
            AuthorizedKeysFile {folder}/identity.pub
            StrictModes no
            UsePAM no
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            PermitRootLogin prohibit-password
            """
        )
        self._log = folder / "log"
        self._process = self._started(folder, _unpacked(cache))
        self.user = pwd.getpwuid(os.getuid()).pw_name

    def _started(self, folder: Path, root: Path) -> subprocess.Popen[bytes]:
        user = pwd.getpwuid(os.getuid())
        (folder / "passwd").write_text(
            f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{self.home}:/bin/sh\n"
            f"sshd:x:100:65534::{_PRIVILEGE_SEPARATION}:/usr/sbin/nologin\n"
        )
        (folder / "group").write_text(f"{user.pw_name}:x:{user.pw_gid}:\nnogroup:x:65534:\n")
        if os.getuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        libraries = [f for p in ("lib", "usr/lib") for f in (root / p).glob("*-linux-gnu")]
        wrapper = next(root.glob("usr/lib/*/libnss_wrapper.so"))
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [str(root / "usr/sbin/sshd"), "-D", "-e", "-f", str(folder / "sshd_config")],
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
                    # The server asks for users that only this file has.
                    "LD_PRELOAD": str(wrapper),
                    "NSS_WRAPPER_PASSWD": str(folder / "passwd"),
                    "NSS_WRAPPER_GROUP": str(folder / "group"),
                },
            )
        for _ in range(100):
            if b"listening" in self._log.read_bytes():
                return process
            time.sleep(0.1)
        process.kill()
        raise AssertionError(f"sshd does not listen: {self._log.read_text()}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Proxy:
    """A network between client and server that can be cut or fall silent."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._silent = threading.Event()
        self._refusing = threading.Event()
        self._cut_after: int | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        """Carry nothing any more, and tell nobody."""
        self._silent.set()

    def speak(self) -> None:
        """Carry again what was held back."""
        self._silent.clear()

    def refuse(self) -> None:
        """Close new connections at once."""
        self._refusing.set()

    def accept_again(self) -> None:
        """Take new connections."""
        self._refusing.clear()

    def cut(self, *, after_bytes: int = 0) -> None:
        """Break what is connected, once that much more was sent; new connections work."""
        if after_bytes:
            self._cut_after = after_bytes
            return
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing.is_set():
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # it is away
                client.close()
                continue
            self._pairs.append((client, server))
            threading.Thread(target=self._both_ways, args=(client, server), daemon=True).start()

    def _both_ways(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._carry, args=(server, client, False), daemon=True)
            back.start()
            self._carry(client, server, True)
            back.join()

    def _carry(self, one: socket.socket, other: socket.socket, upward: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(1 << 16):
                while self._silent.is_set():
                    time.sleep(0.05)
                other.sendall(piece)
                if upward and self._cut_after is not None:
                    self._cut_after -= len(piece)
                    if self._cut_after <= 0:
                        self._cut_after = None
                        self.cut()
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def make_key(path: Path) -> None:
    """A new key without a passphrase; its public half is beside it, as `.pub`."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Reached(Protocol):
    """A machine with an SSH server."""

    port: int
    identity: Path
    known_hosts: Path


@contextlib.contextmanager
def client(folder: Path, server: Reached, *, known_hosts: Path | None = None) -> Iterator[Path]:
    """A folder for the front of PATH whose `ssh` is this machine's with a configuration of its own."""
    folder.mkdir()
    (folder / "config").write_text(
        f"IdentityFile {server.identity}\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {known_hosts or server.known_hosts}\nGlobalKnownHostsFile none\n"
        f"HostKeyAlias [127.0.0.1]:{server.port}\n"
    )
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (folder / "ssh").chmod(0o755)
    yield folder


def _unpacked(cache: Cache) -> Path:
    architecture = host_architecture()
    packages = ["openssh-server", "libnss-wrapper"]
    key = cache.key("test-sshd", architecture=architecture, packages=packages)

    def build(folder: Path) -> None:
        unpack_packages("bookworm", architecture, packages, folder)

    return cache.folder(key, build)
