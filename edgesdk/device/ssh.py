"""Addresses of machines behind OpenSSH: `ssh://[user@]host[:port][?option=…]`.

The user's own client is run, so its configuration, keys, jump hosts and known hosts count.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from urllib.parse import urlsplit

from edgesdk.cache import Cache
from edgesdk.device.address import device_at, read_options
from edgesdk.device.remote import RemoteDevice
from edgesdk.errors import DeviceError

SCHEME = "ssh://"
_FORM = "ssh://[user@]host[:port][?python=COMMAND&host-key=accept-new&wheelhouse=FOLDER]"
_HOST_KEYS = ("known", "accept-new")
_ALIVE_S = 3
_ALIVE_COUNT = 3
_CONNECT_S = 10


def ssh_device(
    url: str, backends: Sequence[str], cache: Cache, *, also: Sequence[str] = ()
) -> RemoteDevice:
    """The machine at an address; takes what `find_device` does.

    Raises:
        DeviceError: the address makes no sense, there is no `ssh` here, or the machine cannot be
            reached or used.
    """
    command, options = parse_address(url)
    if shutil.which("ssh") is None:
        raise DeviceError(f"{url} needs OpenSSH's client, and there is no ssh here; install it")
    return device_at(url, command, options, backends, cache, also=also)


def parse_address(url: str) -> tuple[Sequence[str], dict[str, str]]:
    """The command line that runs a shell command there, and the options of the address.

    Raises:
        DeviceError: the address makes no sense.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise DeviceError(f"{url}: {exc}; expected {_FORM}") from exc
    if parts.scheme != "ssh" or not host or host.startswith("-") or parts.path not in ("", "/"):
        raise DeviceError(f"{url!r} is no address; expected {_FORM}")
    if parts.password:
        raise DeviceError(f"{parts.username}@{host}: no password in an address; use a key")
    options = read_options(url, parts.query, "host-key")
    host_key = options.get("host-key", _HOST_KEYS[0])
    if host_key not in _HOST_KEYS:
        raise DeviceError(f"{url}: host-key={host_key}; legal: {', '.join(_HOST_KEYS)}")
    settings = {
        "BatchMode": "yes",  # never ask; there may be nobody to answer
        "ConnectTimeout": str(_CONNECT_S),
        "ServerAliveInterval": str(_ALIVE_S),
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        "StrictHostKeyChecking": "yes" if host_key == "known" else "accept-new",
    }
    command = ["ssh", "-T", *(part for item in settings.items() for part in ("-o", "=".join(item)))]
    command += ["-p", str(port)] if port else []
    command += ["-l", parts.username] if parts.username else []
    return [*command, "--", host], options
