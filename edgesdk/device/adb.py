"""Addresses of devices behind Android's debug bridge: `adb://SERIAL[?option=…]`.

The user's own `adb` is run. It talks to a server of its own on this machine, which it starts where
none runs and which stays; that server holds the connections to devices. `adb shell -T` carries bytes
as they are, keeps standard error apart and tells exit codes, where both sides know version 2 of the
shell protocol.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from urllib.parse import unquote

from edgesdk.cache import Cache
from edgesdk.device.address import device_at, read_options
from edgesdk.device.link import LinkLost
from edgesdk.device.remote import RemoteDevice
from edgesdk.errors import DeviceError

SCHEME = "adb://"
_FORM = "adb://SERIAL[?python=COMMAND&wheelhouse=FOLDER]"
_SHELL = "shell_v2"
_ABSENT = "not there"
_ANSWER_S = 15.0
"""The server may have to start first."""
_STATE_S = 1.0
_SETTLE_S = 3.0
"""A device that was just plugged in is `offline` or `authorizing` for a moment."""

_ADVICE = {
    "unauthorized": "allow this machine on the device's screen, then try again",
    "authorizing": "allow this machine on the device's screen, then try again",
    "offline": "plug it in again, or run: adb reconnect offline",
    "no permissions": "this user may not open it over USB; add a udev rule for it",
}


def adb_device(
    url: str, backends: Sequence[str], cache: Cache, *, also: Sequence[str] = ()
) -> RemoteDevice:
    """The device at an address; takes what `find_device` does.

    Raises:
        DeviceError: the address makes no sense, there is no `adb` here, or the device is not there
            or cannot be used.
    """
    serial, options = parse_address(url)
    if shutil.which("adb") is None:
        raise DeviceError(
            f"{url} needs Android's debug bridge, and there is no adb here; install it"
        )
    _check(serial)
    command = ["adb", "-s", serial, "shell", "-T"]
    wait = functools.partial(_wait, serial)
    return device_at(url, command, options, backends, cache, also=also, wait=wait)


def parse_address(url: str) -> tuple[str, dict[str, str]]:
    """The serial number, and the options of the address.

    Raises:
        DeviceError: the address makes no sense.
    """
    place, _, query = url.removeprefix(SCHEME).partition("?")
    serial = unquote(place.removesuffix("/"))
    if not url.startswith(SCHEME) or not serial:
        raise DeviceError(
            f"{url!r} is no address; expected {_FORM} with a serial number that `adb devices` tells"
        )
    return serial, read_options(url, query)


def parse_devices(text: str) -> dict[str, str]:
    """Serial number and state of each device that `adb devices` tells of."""
    lines = (line.partition("\t") for line in text.splitlines())
    return {serial: state.strip() for serial, tab, state in lines if tab}


def advice(serial: str, state: str) -> str:
    """What to do about a device that adb says to be in that state, for the end of a message."""
    if state == _ABSENT and ":" in serial:
        return f"; where it is on the network, run: adb connect {serial}"
    return next((f"; {text}" for word, text in _ADVICE.items() if state.startswith(word)), "")


def _check(serial: str) -> None:
    """That a device can be used.

    Raises:
        DeviceError: it cannot; the message says what to do.
    """
    found = _devices()
    if serial not in found:
        there = ", ".join(f"{name} ({state})" for name, state in found.items()) or "none"
        raise DeviceError(
            f"adb knows no device {serial!r}; there: {there}{advice(serial, _ABSENT)}"
        )
    _wait(serial, _SETTLE_S)
    if _SHELL not in _adb("-s", serial, "features").split():
        raise DeviceError(
            f"the adbd of device {SCHEME}{serial} is without {_SHELL}, as those of Android 6 and older; "
            "update it, or reach the device over SSH"
        )


def _wait(serial: str, within_s: float) -> None:
    """Until a device can be used: it may be restarting, or be plugged in again.

    Raises:
        LinkLost: not within that time; the message says what to do.
    """
    try:
        _adb("-s", serial, "wait-for-device", within_s=within_s)
    except LinkLost:
        state = _devices(_STATE_S).get(serial, _ABSENT)
        raise LinkLost(f"device {SCHEME}{serial} is {state}{advice(serial, state)}") from None


def _devices(within_s: float = _ANSWER_S) -> dict[str, str]:
    return parse_devices(_adb("devices", within_s=within_s))


def _adb(*arguments: str, within_s: float = _ANSWER_S) -> str:
    """What `adb` prints.

    Raises:
        LinkLost: it did not end in time.
        DeviceError: it failed.
    """
    command = ["adb", *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LinkLost(
            f"{' '.join(command)} did not end within {within_s:g} s; where adb's server hangs, run: "
            "adb kill-server"
        ) from None
    if done.returncode:
        raise DeviceError(f"{' '.join(command)}: {(done.stderr + done.stdout).strip()}")
    return done.stdout
