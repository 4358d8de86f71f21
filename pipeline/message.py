"""The wire: one fixed header and one payload, no pickle.

    bytes 0..319   header (little endian), closed by its CRC-32
    bytes 320..    payload: the tensors one after the other, each starting at a multiple of 64 bytes;
                   of a FAILED message the reason as UTF-8; of EMPTY and END nothing

Tensor names do not travel: both ends of an edge know them and their order. A header describes at most 8 tensors of at
most 6 dimensions.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import FrameError, MessageError
from .packet import Array, Kind, Packet, TensorSpec

MAGIC = b"SPLR"
VERSION = 1
HEADER_BYTES = 320
MAX_TENSORS = 8
MAX_DIMENSIONS = 6
ALIGNMENT_BYTES = 64

Buffer = npt.NDArray[np.uint8]

# magic, version, kind, number of tensors, sender's rank, flags, frame, capture, pts, source size, valid size,
# payload length, payload CRC, setting, posted
_FIXED = struct.Struct("<4sHBBHHqqqIIIIQIIq")
_TENSOR = struct.Struct("<BBxx6I")
_CRC = struct.Struct("<I")
_CRC_AT = HEADER_BYTES - _CRC.size
_HAS_PAYLOAD_CRC = 1
_DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64")
_DTYPE_CODES = {np.dtype(name): code for code, name in enumerate(_DTYPES)}
assert _FIXED.size + MAX_TENSORS * _TENSOR.size <= _CRC_AT


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header."""

    kind: Kind
    sender: int
    frame: int
    capture_ns: int
    pts_ns: int
    source_size: tuple[int, int]
    valid_size: tuple[int, int]
    payload_bytes: int
    payload_crc: int | None
    posted_ns: int
    """Sender's monotonic clock when the message was handed to the channel, ns."""
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    """dtype and shape of each tensor, in the edge's order."""
    setting: int = 0
    """`Packet.setting`."""


def aligned(num_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def new_buffer(max_payload_bytes: int) -> Buffer:
    """A buffer for one message whose payload is aligned. Pages that are never written cost no memory."""
    size = HEADER_BYTES + aligned(max_payload_bytes)
    raw = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + size]


def layout(specs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], int]:
    """Offset of each tensor in the payload, and the payload's length, bytes. Shapes must be complete."""
    offsets = []
    end = 0
    for spec in specs:
        start = aligned(end)
        offsets.append(start)
        end = start + _num_bytes(spec.dtype, spec.shape)
    return tuple(offsets), end


def tensor_views(buffer: Buffer, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays over the payload of `buffer`, laid out for `specs`."""
    offsets, end = layout(specs)
    if HEADER_BYTES + end > buffer.size:
        raise FrameError(
            f"the tensors take {end} bytes and a message of this edge holds {buffer.size - HEADER_BYTES}; "
            "send smaller images, or images as JPEG (--image-wire jpeg)"
        )
    return {
        spec.name: np.frombuffer(
            buffer.data,
            np.dtype(spec.dtype),
            count=_num_elements(spec.shape),
            offset=HEADER_BYTES + offset,
        ).reshape([int(size or 0) for size in spec.shape])
        for spec, offset in zip(specs, offsets, strict=True)
    }


def pack(buffer: Buffer, packet: Packet, names: Sequence[str], sender: int, *, payload_crc: bool = False) -> int:
    """Write `packet` into `buffer`; returns the message's length in bytes. `stamp` it before it is sent.

    A tensor that already is a view of the right place in `buffer` is not copied. Raises FrameError when the packet does
    not fit or lacks a tensor of `names`.
    """
    shapes: list[tuple[int, int, tuple[int, ...]]] = []
    payload_bytes = 0
    if packet.kind is Kind.FRAME:
        missing = [name for name in names if name not in packet.tensors]
        if missing:
            raise FrameError(f"tensor {missing[0]!r} is not in the packet, which has {sorted(packet.tensors)}")
        tensors = [packet.tensors[name] for name in names]
        specs = [TensorSpec(name, tensor.dtype.name, tensor.shape) for name, tensor in zip(names, tensors, strict=True)]
        for spec, tensor in zip(specs, tensors, strict=True):
            if tensor.dtype not in _DTYPE_CODES or tensor.ndim > MAX_DIMENSIONS or len(tensors) > MAX_TENSORS:
                raise FrameError(
                    f"tensor {spec.name!r} ({spec.dtype}, {tensor.ndim} dimensions) does not fit into a message"
                )
            shapes.append((_DTYPE_CODES[tensor.dtype], tensor.ndim, tensor.shape))
        places = tensor_views(buffer, specs)
        for name, tensor in zip(names, tensors, strict=True):
            place = places[name]
            if tensor.ctypes.data != place.ctypes.data or not tensor.flags.c_contiguous:
                np.copyto(place, tensor)
        payload_bytes = layout(specs)[1]
    elif packet.kind is Kind.FAILED:
        text = packet.reason.encode("utf-8", "replace")[: buffer.size - HEADER_BYTES]
        payload_bytes = len(text)
        buffer[HEADER_BYTES : HEADER_BYTES + payload_bytes] = np.frombuffer(text, np.uint8)
    end = HEADER_BYTES + payload_bytes
    checksum = zlib.crc32(buffer[HEADER_BYTES:end].data) if payload_crc else 0
    view = buffer.data
    view[:HEADER_BYTES] = bytes(HEADER_BYTES)
    _FIXED.pack_into(
        view, 0, MAGIC, VERSION, packet.kind, len(shapes), sender, _HAS_PAYLOAD_CRC if payload_crc else 0,
        packet.frame, packet.capture_ns, packet.pts_ns, *packet.source_size, *packet.valid_size,
        payload_bytes, checksum, packet.setting, 0,
    )  # fmt: skip
    for index, (code, ndim, shape) in enumerate(shapes):
        dimensions = (*shape, 0, 0, 0, 0, 0, 0)[:MAX_DIMENSIONS]
        _TENSOR.pack_into(view, _FIXED.size + index * _TENSOR.size, code, ndim, *dimensions)
    _CRC.pack_into(view, _CRC_AT, zlib.crc32(view[:_CRC_AT]))
    return end


def stamp(buffer: Buffer, posted_ns: int) -> None:
    """Set the time of posting in a packed message: it is known only after the wait for credit."""
    view = buffer.data
    struct.pack_into("<q", view, _FIXED.size - 8, posted_ns)
    _CRC.pack_into(view, _CRC_AT, zlib.crc32(view[:_CRC_AT]))


def parse(buffer: Buffer, num_bytes: int, where: str) -> Header:
    """Check and read the header of a message of `num_bytes`. `where` names the edge in errors.

    Raises MessageError naming the sending rank, kind and frame as far as they can be read.
    """
    if num_bytes < HEADER_BYTES:
        raise MessageError(f"{where}: a message of {num_bytes} bytes is shorter than a header ({HEADER_BYTES})")
    view = buffer.data
    (magic, version, kind, num_tensors, sender, flags, frame, capture_ns, pts_ns, source_height, source_width,
     valid_height, valid_width, payload_bytes, checksum, setting, posted_ns) = _FIXED.unpack_from(view, 0)  # fmt: skip
    name = f"{where}: message of rank {sender}, kind {_kind_name(kind)}, frame {frame}"
    if magic != MAGIC:
        raise MessageError(f"{where}: {bytes(magic)!r} is not the start of a message of ours")
    if version != VERSION:
        raise MessageError(
            f"{name} has version {version}, this rank speaks {VERSION}; install the same splitrail on all hosts"
        )
    if _CRC.unpack_from(view, _CRC_AT)[0] != zlib.crc32(view[:_CRC_AT]):
        raise MessageError(f"{name}: the header's checksum does not match, its bytes were changed on the way")
    if kind not in Kind.__members__.values():
        raise MessageError(f"{name}: unknown kind")
    if payload_bytes != num_bytes - HEADER_BYTES:
        raise MessageError(f"{name}: announces {payload_bytes} payload bytes and brings {num_bytes - HEADER_BYTES}")
    tensors = []
    if num_tensors > MAX_TENSORS:
        raise MessageError(f"{name}: {num_tensors} tensors, at most {MAX_TENSORS} are allowed")
    for index in range(num_tensors):
        code, ndim, *dimensions = _TENSOR.unpack_from(view, _FIXED.size + index * _TENSOR.size)
        if code >= len(_DTYPES) or ndim > MAX_DIMENSIONS:
            raise MessageError(f"{name}: tensor {index} has dtype code {code} and {ndim} dimensions")
        tensors.append((_DTYPES[code], tuple(dimensions[:ndim])))
    payload_crc = checksum if flags & _HAS_PAYLOAD_CRC else None
    if payload_crc is not None and payload_crc != zlib.crc32(buffer[HEADER_BYTES:num_bytes].data):
        raise MessageError(f"{name}: the payload's checksum does not match, its bytes were changed on the way")
    return Header(
        Kind(kind), sender, frame, capture_ns, pts_ns, (source_height, source_width), (valid_height, valid_width),
        payload_bytes, payload_crc, posted_ns, tuple(tensors), setting,
    )  # fmt: skip


def unpack(buffer: Buffer, header: Header, names: Sequence[str], where: str) -> Packet:
    """The packet of a parsed message; its tensors are views of `buffer`. Raises MessageError when they do not fit."""
    name = f"{where}: message of rank {header.sender}, kind {header.kind.name}, frame {header.frame}"
    packet = Packet(
        header.frame,
        header.capture_ns,
        header.pts_ns,
        header.source_size,
        header.valid_size,
        kind=header.kind,
        setting=header.setting,
    )
    if header.kind is Kind.FRAME:
        if len(header.tensors) != len(names):
            raise MessageError(
                f"{name}: {len(header.tensors)} tensors where {len(names)} are expected ({', '.join(names)})"
            )
        specs = [TensorSpec(n, dtype, shape) for n, (dtype, shape) in zip(names, header.tensors, strict=True)]
        if layout(specs)[1] != header.payload_bytes:
            raise MessageError(
                f"{name}: its tensors take {layout(specs)[1]} bytes, the payload has {header.payload_bytes}"
            )
        packet.tensors = tensor_views(buffer, specs)
    elif header.kind is Kind.FAILED:
        raw = buffer[HEADER_BYTES : HEADER_BYTES + header.payload_bytes].tobytes()
        packet.reason = raw.decode("utf-8", "replace")
    return packet


def _kind_name(kind: int) -> str:
    return Kind(kind).name if kind in Kind.__members__.values() else str(kind)


def _num_elements(shape: Sequence[int | None]) -> int:
    count = 1
    for size in shape:
        count *= int(size or 0)
    return count


def _num_bytes(dtype: str, shape: Sequence[int | None]) -> int:
    return np.dtype(dtype).itemsize * _num_elements(shape)
