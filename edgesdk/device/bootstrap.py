"""What is run first on a device, as `python -c TEXT CLIENT DISTRIBUTION…`, by any Python from 3.7 on.

Tells what the machine is and which of the distributions it has, takes each zip file that it is then
given, whole or not at all, and becomes the agent. It must not import anything of edgesdk.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import zipfile

_SPARE = 32 << 20
_say, _hear = sys.stdout.buffer, sys.stdin.buffer


def _tell(text: str) -> None:
    _say.write(text.encode() + b"\n")
    _say.flush()


def _version(name: str) -> str | None:
    try:
        from importlib import metadata  # not there before Python 3.8

        return metadata.version(name)
    except ImportError:  # that includes distributions that are not there
        return None


def _receive(place: str, key: str, size: int, unpack: bool) -> str | None:
    """Take a zip file, under another name until it is known to be whole; what was wrong, or None."""
    part = place + ".part"
    digest = hashlib.sha256()
    with open(part, "wb") as stream:
        while size:
            piece = _hear.read(min(size, 1 << 20))
            if not piece:
                sys.exit()
            digest.update(piece)
            stream.write(piece)
            size -= len(piece)
    if digest.hexdigest() != key:
        return "what was sent came damaged"
    if unpack:
        shutil.rmtree(part + ".d", ignore_errors=True)
        with zipfile.ZipFile(part) as archive:
            archive.extractall(part + ".d")
        os.remove(part)
        part += ".d"
    os.rename(part, place)
    return None


def _take(folder: str, name: str, key: str, size: int, unpack: bool) -> str | None:
    """The place of a zip file on the import path, or None after telling what was wrong."""
    place = os.path.join(folder, name + "-" + key)
    if not os.path.exists(place):
        free = shutil.disk_usage(folder).free
        if free < size * (4 if unpack else 1) + _SPARE:
            _tell("its disk is full: %d MB free for %d MB" % (free >> 20, size >> 20))
            return None
        _tell("need")
        problem = _receive(place, key, size, unpack)
        if problem:
            _tell(problem)
            return None
    _tell("have")
    return place


def _main() -> None:
    _tell("\nEDGESDK AGENT")
    facts = {
        "python": sys.version_info[:2],
        "arch": platform.machine(),
        "libc": platform.libc_ver(),
        "has": {name: _version(name) for name in sys.argv[2:]},
    }
    _tell(json.dumps(facts))
    asked = json.loads(_hear.readline().decode())
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(base, "edgesdk-device")
    paths = []
    try:
        os.makedirs(folder, exist_ok=True)
        for part in asked:
            place = _take(folder, *part)
            if place is None:
                return
            paths.append(place)
    except OSError as exc:
        _tell("%s cannot be written: %s" % (folder, exc.strerror))
        return
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(paths + ([inherited] if inherited else []))
    agent = [sys.executable, "-P", "-m", "edgesdk.device.agent", folder, sys.argv[1]]
    os.execv(sys.executable, agent)


if __name__ == "__main__":
    _main()
