"""Messages over a byte stream: a JSON object, and bytes that belong to it.

4 bytes   length of the JSON text, big-endian
text      a JSON object; its key `bytes` says how many bytes follow
bytes
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]

_HEAD = 4
_LONGEST = 64 << 20
"""No message of ours is longer; what says it is longer is no message."""


def pack(message: Message, body: bytes = b"") -> bytes:
    """One message as bytes."""
    text = json.dumps({**message, "bytes": len(body)}).encode()
    return len(text).to_bytes(_HEAD, "big") + text + body


class Unpacker:
    """Puts messages together from pieces of a stream, however it was cut."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._data = bytearray()

    def add(self, piece: bytes) -> None:
        """Take in the next piece of the stream."""
        self._data += piece

    def line(self, end: bytes) -> bytes | None:
        """What comes before `end`, which goes with it; None as long as it is not there."""
        found, mark, rest = self._data.partition(end)
        if not mark:
            return None
        self._data = rest
        return bytes(found)

    def message(self) -> tuple[Message, bytes] | None:
        """The next message with its bytes; None as long as it is not complete.

        Raises:
            ValueError: the stream carries something else.
        """
        data = self._data
        if len(data) < _HEAD:
            return None
        length = int.from_bytes(data[:_HEAD], "big")
        if not 0 < length <= _LONGEST:
            raise ValueError(f"no message begins with {bytes(data[:_HEAD])!r}")
        if len(data) < _HEAD + length:
            return None
        message = json.loads(bytes(data[_HEAD : _HEAD + length]))
        if not isinstance(message, dict) or not 0 <= message.get("bytes", -1) <= _LONGEST:
            raise ValueError(f"no message of ours: {str(message)[:80]}")
        end = _HEAD + length + message.pop("bytes")
        if len(data) < end:
            return None
        body = bytes(data[_HEAD + length : end])
        del data[:end]
        return message, body
