"""What addresses of machines have in common: the options after `?`, and the device behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from edgesdk.cache import Cache
from edgesdk.device.remote import RemoteDevice
from edgesdk.errors import DeviceError
from edgesdk.usercode import did_you_mean

_COMMON = ("python", "wheelhouse")


def read_options(url: str, query: str, *more: str) -> dict[str, str]:
    """The options of an address.

    Args:
        url: the address, for messages.
        query: its part after `?`.
        more: names that are legal beside `python` and `wheelhouse`.

    Raises:
        DeviceError: an option that there is not.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    legal = (_COMMON[0], *more, *_COMMON[1:])
    for name in options:
        if name not in legal:
            raise DeviceError(
                f"{url}: unknown option {name!r}{did_you_mean(name, legal)}; "
                f"legal: {', '.join(legal)}"
            )
    return options


def device_at(
    url: str,
    command: Sequence[str],
    options: Mapping[str, str],
    backends: Sequence[str],
    cache: Cache,
    *,
    also: Sequence[str] = (),
    wait: Callable[[float], None] | None = None,
) -> RemoteDevice:
    """The machine on which that command runs shell command lines; see `RemoteDevice`.

    Raises:
        DeviceError: the wheelhouse is no folder, or the machine cannot be reached or used.
    """
    wheelhouse = Path(options["wheelhouse"]) if "wheelhouse" in options else None
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise DeviceError(f"{url}: the wheelhouse {wheelhouse} is no folder here")
    return RemoteDevice(
        url,
        command,
        backends,
        cache,
        also=also,
        python=options.get("python", "python3"),
        wheelhouse=wheelhouse,
        wait=wait,
    )
