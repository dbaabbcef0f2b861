"""A walk over an ONNX file in protobuf's wire format, which leaves the weights where they are.

Two bytes of a hostile file can become 150 bytes of parsed message, and weights are of no interest
to whoever wants facts. So the bytes are walked first: fields are counted, tensor data is held
against what the tensor claims and left out, and only the small rest goes to the protobuf parser.

Wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from edgesdk.onnxfile.external import ExternalRange, parse_range
from edgesdk.onnxfile.tensors import BULK_FIELDS, RAW_DATA, check_tensor

if TYPE_CHECKING:
    from mmap import mmap

MAX_FIELDS = 4_000_000
"""Real graphs have 10 to 20 for each node; four million take a parser up to 600 MB."""
MAX_DEPTH = 96
"""Messages within messages; protobuf's parsers stop at 100. About 30 subgraphs in each other."""
KEEP_BYTES = 1024
"""Tensor data up to this size stays: shapes, axes and scales, which shape inference reads."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A message type, as far as the walk needs it.

    Attributes:
        children: kinds of the fields that hold messages, by field number.
        once: numbers of the fields that may come once; protobuf would merge or override.
        strings: numbers of the fields that must be UTF-8; protobuf would fail when they are read.
    """

    children: dict[int, Any]
    once: frozenset[int]
    strings: frozenset[int]
    is_tensor: bool


@cache
def _kind(descriptor: Any) -> _Kind:
    messages = [one for one in descriptor.fields if one.message_type is not None]
    once = {one.number for one in messages if not _is_repeated(one)}
    is_tensor = descriptor.full_name == "onnx.TensorProto"
    return _Kind(
        children={one.number: one.message_type for one in messages},
        once=frozenset(once | {RAW_DATA} if is_tensor else once),
        strings=frozenset(one.number for one in descriptor.fields if one.type == one.TYPE_STRING),
        is_tensor=is_tensor,
    )


def _is_repeated(one: Any) -> bool:
    # protobuf 6.30 brought is_repeated and began to retire label.
    if hasattr(one, "is_repeated"):
        return bool(one.is_repeated)
    return bool(one.label == one.LABEL_REPEATED)


@dataclass(slots=True)
class Walk:
    """One walk: `strip` returns the file without its weights and fills the rest.

    Attributes:
        data: the file, mapped.
        externals: ranges of external data, in the order in which tensors name them.
        fields: protobuf fields seen so far.
    """

    data: mmap
    externals: list[ExternalRange] = field(default_factory=list)
    fields: int = 0

    def strip(self) -> bytes:
        """The model without tensor data above `KEEP_BYTES`.

        Raises:
            ValueError: these bytes are no ONNX protobuf, or are nested or filled beyond reason.
            ModelError: a tensor claims what is not there, or external data may not be read.
        """
        from onnx import ModelProto

        return self._message(0, len(self.data), ModelProto.DESCRIPTOR, 0)

    def _message(self, start: int, end: int, descriptor: Any, depth: int) -> bytes:
        """One message without its weights."""
        if depth > MAX_DEPTH:
            raise ValueError(f"messages are nested deeper than {MAX_DEPTH}")
        kind = _kind(descriptor)
        pieces: list[bytes] = []
        left_out: dict[int, int] = {}
        seen: set[int] = set()
        copied = at = start  # what lies before `copied` is in `pieces`, or left out
        while at < end:
            number, wire, body, after = self._field(at, end)
            if number in kind.once:
                if number in seen:
                    raise ValueError(f"field {number} of a {descriptor.name} comes twice")
                seen.add(number)
            child = kind.children.get(number)
            if child is not None:
                if wire != _BYTES:
                    raise ValueError(f"a value lies where a {child.name} belongs, at byte {at}")
                inner = self._message(body, after, child, depth + 1)
                if len(inner) != after - body:
                    pieces += (self.data[copied:at], _length_field(number, len(inner)), inner)
                    copied = after
            elif number in kind.strings:
                self.data[body:after].decode()
            elif kind.is_tensor and number in BULK_FIELDS and after - body > KEEP_BYTES:
                left_out[number] = left_out.get(number, 0) + after - body
                pieces.append(self.data[copied:at])
                copied = after
            at = after
        stripped = b"".join((*pieces, self.data[copied:end]))
        if kind.is_tensor:
            self._tensor(stripped, left_out)
        return stripped

    def _tensor(self, stripped: bytes, left_out: dict[int, int]) -> None:
        from onnx import TensorProto

        tensor = TensorProto.FromString(stripped)
        needed = check_tensor(tensor, left_out)
        if tensor.data_location == tensor.EXTERNAL:
            entries = [(entry.key, entry.value) for entry in tensor.external_data]
            self.externals.append(parse_range(tensor.name, entries, needed))

    def _field(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Number, wire type, start and end of the value of the field that starts at `at`."""
        self.fields += 1
        if self.fields > MAX_FIELDS:
            raise ValueError(f"it has more than {MAX_FIELDS:,} fields, which no honest graph needs")
        key, body = self._varint(at, end)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            size, body = self._varint(body, end)
            after = body + size
        elif wire == _VARINT:
            _, after = self._varint(body, end)
        elif wire in (_FIXED32, _FIXED64):
            after = body + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"byte {at} starts no field of an ONNX model")
        if after > end or number == 0:
            raise ValueError(f"the field at byte {at} does not end where its message ends")
        return number, wire, body, after

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of up to ten bytes, and where it ends."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise ValueError(f"the number at byte {at} does not end")


def _length_field(number: int, size: int) -> bytes:
    """Key and length of a field that holds `size` bytes."""
    encoded = bytearray()
    for value in (number << 3 | _BYTES, size):
        rest = value
        while rest > 0x7F:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
    return bytes(encoded)
