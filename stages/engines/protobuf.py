"""The protobuf wire format (https://protobuf.dev/programming-guides/encoding), as far as editing an ONNX model needs it.

A host that only runs graphs has no `onnx` package; and parsing a whole model to change a few fields takes twice its memory.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types, the lowest three bits of a field's tag."""

Field = tuple[int, memoryview, memoryview]
"""Number, value and the whole encoded field; the value is empty unless it has a length."""


def length_field(number: int, parts: list[memoryview | bytes]) -> list[memoryview | bytes]:
    """A field with a length, whose value is the parts one after the other."""
    return [varint_bytes(number << 3 | BYTES), varint_bytes(sum(map(len, parts))), *parts]


def fields(message: memoryview) -> Iterator[Field]:
    """Number, value and the whole encoded field of each field of a message; the value is empty unless it has a length."""
    position = 0
    while position < len(message):
        begin = position
        tag, position = _varint(message, position)
        value = message[:0]
        kind = tag & 7
        if kind == BYTES:
            size, position = _varint(message, position)
            value = message[position : position + size]
            position += size
        elif kind == VARINT:
            _, position = _varint(message, position)
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"not a serialised ONNX model: wire type {kind} at byte {begin}")
        if position > len(message):
            raise ValueError("not a serialised ONNX model: it ends inside a field")
        yield tag >> 3, value, message[begin:position]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The integer at `position`, and the position behind it."""
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a serialised ONNX model: it ends inside a number")


def varint_bytes(value: int) -> bytes:
    """An integer from 0 on, as protobuf writes it."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
