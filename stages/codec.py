"""Wire types: a float32 tensor as the bytes that travel, and back.

    fp32     the tensor itself
    fp16     IEEE half precision, values beyond +-65504 clipped to it
    uintB    affine with B = 8, 6 or 4 bits, one scale and one zero point per tensor, or per channel (Jacob et al. 2018,
             section 2.1):
             low = min(min(x), 0), high = max(max(x), 0)      the range contains 0, so 0 is kept exactly
             scale = (high - low) * float32(1 / M), 1 where that is below the smallest normal float32;  M = 2^B - 1
             inverse = 1 / scale
             zero_point = clip(round(-low * inverse), 0, M)
             q = clip(round(x * inverse) + zero_point, 0, M)
             x = (float32(q) - float32(zero_point)) * scale

All in float32, rounding half to even. Decoding is off by at most scale / 2; a constant tensor comes back as that constant
(up to the rounding of float32). The graphs of a bundle do the same arithmetic for uint8 and yield the same bytes; this is
for engines that cannot, for all other forms, and for the receiving side. It multiplies by reciprocals because OpenVINO
makes that of every division by one number, and the bytes must not depend on the engine.

Fewer than 8 bits are packed (`packing.py`); with +zstd the codes are compressed instead (`entropy.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from ..pipeline.errors import FrameError
from ..pipeline.packet import Array, Packet, TensorSpec
from .bundle import WIRE_SUFFIXES, WireType
from .entropy import compress, decompress, require_entropy_coder
from .packing import Codes, pack, unpack
from .tensors import release_unread, tensor_of
from .wire import GraphForm, WireForm

_HALF_MAX = np.float32(65504)
_SMALLEST_SCALE = np.finfo(np.float32).tiny
_PARAMETERS = {"_scale": "float32", "_zero_point": "uint8", "_shape": "int32"}
_BLOCK = 1 << 15
"""Elements quantised at a time: the 128 KiB in between stay in the cache of the core, and nothing large is allocated."""

_Floats = npt.NDArray[np.float32]


def wire_specs(name: str, shape: tuple[int | None, ...], wire: WireType) -> tuple[TensorSpec, ...]:
    """The tensors that carry float32 `name` of `shape`, in message order. A size that varies by frame is None."""
    form = WireForm.of(wire)
    known = tuple(size for size in shape if size is not None)
    complete = len(known) == len(shape)
    num_scales = shape[1] if form.per_channel and len(shape) > 1 else 1
    sizes: dict[str, tuple[int | None, ...]] = {
        "_scale": (num_scales,),
        "_zero_point": (num_scales,),
        "_shape": (len(shape),),
    }
    if form.is_compressed:
        sizes[form.suffixes[0]] = (None,)
    elif form.bits < 8:
        sizes[form.suffixes[0]] = (form.num_code_bytes(math.prod(known)) if complete else None,)
    return tuple(TensorSpec(name + suffix, _dtype(suffix), sizes.get(suffix, shape)) for suffix in form.suffixes)


def encode(x: Array, wire: WireType, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Suffix -> array, in message order (`WireForm.suffixes` has the shapes).

    `x` is float32. Where `out` has a suffix, the result is written into that array, which must have the result's dtype
    and shape. Without, fp32 gives `x` itself back. Raises FrameError: a value is not finite, or the range is too wide.
    """
    form = WireForm.of(wire)
    out = out or {}
    num_scales = form.num_parameters(x.shape)
    grid = cast("_Floats", x.reshape(_grid(x.shape, num_scales)))
    low, high = grid.min(axis=(0, 2), initial=0), grid.max(axis=(0, 2), initial=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise FrameError("a tensor for the wire has values that are not finite")
    if form.name == "fp32":
        return {"": _written(x, out.get(""))}
    if form.name == "fp16":
        inside = low[0] >= -_HALF_MAX and high[0] <= _HALF_MAX
        half = out.get("_fp16")
        if half is None:
            half = np.empty(x.shape, np.float16)
        return {"_fp16": _written(x if inside else np.clip(x, -_HALF_MAX, _HALF_MAX), half)}
    max_code = np.float32(form.max_code)
    with np.errstate(over="ignore", under="ignore"):
        scale = (high - low) * np.float32(1 / form.max_code)
    if not np.isfinite(scale).all():
        widest = int(np.argmax(~np.isfinite(scale)))
        raise FrameError(f"a tensor with values from {low[widest]:.3g} to {high[widest]:.3g} is too wide for {wire}")
    scale[scale < _SMALLEST_SCALE] = 1
    inverse = np.float32(1) / scale
    zero_point = np.clip(np.rint(-low * inverse), np.float32(0), max_code)
    place = out.get(form.suffixes[0])
    is_written = place is not None and form.suffixes[0] == "_uint8"
    codes = cast("Codes", place) if is_written else np.empty(x.shape, np.uint8)
    for part, coded in zip(grid, codes.reshape(grid.shape), strict=True):
        _quantise(part, inverse, zero_point, max_code, coded)
    return carry(codes, scale, zero_point.astype(np.uint8), form, out)


def carry(
    codes: Codes, scale: Array, zero_point: Array, form: WireForm, out: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """What `encode` returns, from codes of the tensor's shape, one a byte, and their parameters: packed, or compressed."""
    out = out or {}
    carried: dict[str, Array] = {form.suffixes[0]: codes}
    if form.is_compressed:
        carried = {form.suffixes[0]: compress(codes)}
    elif form.bits < 8:
        carried = {form.suffixes[0]: pack(codes.reshape(-1), form.bits)}
    carried |= {"_scale": scale, "_zero_point": zero_point}
    if "_shape" in form.suffixes:
        carried["_shape"] = np.array(codes.shape, np.int32)
    return {suffix: _written(array, out.get(suffix)) for suffix, array in carried.items()}


def decode(parts: Mapping[str, Array], wire: WireType) -> _Floats:
    """The float32 tensor from what `encode` returned. fp32 gives the very array back, the others a new one.

    Raises FrameError: a scale is not a positive finite number, or codes and shape do not fit each other.
    """
    if wire == "fp32":
        return parts[""].astype(np.float32, copy=False)
    if wire == "fp16":
        return parts["_fp16"].astype(np.float32)
    form = WireForm.of(wire)
    scale = parts["_scale"].astype(np.float32, copy=False)
    if not ((scale > 0) & (scale < np.inf)).all():
        worst = scale[int(np.argmin((scale > 0) & (scale < np.inf)))]
        raise FrameError(f"a {wire} tensor came with the scale {worst}: what was encoded was not finite")
    codes = _codes(parts, form)
    num_scales = form.num_parameters(codes.shape)
    if scale.shape != (num_scales,) or parts["_zero_point"].shape != (num_scales,):
        raise FrameError(
            f"a {wire} tensor of shape {list(codes.shape)} came with {scale.size} scales and "
            f"{parts['_zero_point'].size} zero points where it has {num_scales}"
        )
    x = codes.astype(np.float32)
    grid = x.reshape(_grid(x.shape, num_scales))
    grid -= parts["_zero_point"].astype(np.float32)[:, np.newaxis]
    grid *= scale[:, np.newaxis]
    return x


class Encode:
    """Stage: the named tensors become those of a wire type; the packet's other tensors are dropped."""

    name = "encode"

    def __init__(
        self,
        names: Sequence[str],
        wire: WireType,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        *,
        source: GraphForm = "fp32",
    ) -> None:
        """`shapes` are those of the named tensors where they are fixed: then it writes straight into a send buffer.

        `source` is what the packet has: float32 tensors, or uint8 codes with their parameters, from which only a wire type
        whose `graph_form` is uint8 can be made. Raises ConfigError: what compresses is not installed.
        """
        self._names = tuple(names)
        self._wire = wire
        self._form = WireForm.of(wire)
        self._shapes = shapes
        self._source = source
        if self._form.is_compressed:
            require_entropy_coder()

    def process(self, packet: Packet) -> None:
        """Raises FrameError for values that are not finite, MessageError for a tensor that is missing."""
        before = packet.tensors
        targets = packet.targets or {}
        encoded: dict[str, Array] = {}
        for name in self._names:
            out = {suffix: targets[name + suffix] for suffix in self._form.suffixes if name + suffix in targets}
            encoded.update((name + suffix, array) for suffix, array in self._encode(packet, name, out).items())
        packet.tensors = encoded
        release_unread(packet, before)

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """What `process` leaves in the packet, in order; None when the shapes vary by frame."""
        if self._shapes is None or self._form.is_compressed:
            return None
        return tuple(spec for name in self._names for spec in wire_specs(name, self._shapes[name], self._wire))

    def close(self) -> None:
        """Nothing to free."""

    def _encode(self, packet: Packet, name: str, out: Mapping[str, Array]) -> dict[str, Array]:
        if self._source != "uint8":
            return encode(tensor_of(packet, name, "float32", self.name), self._wire, out)
        codes, scale, zero_point = (
            tensor_of(packet, name + suffix, _dtype(suffix), self.name) for suffix in WIRE_SUFFIXES["uint8"]
        )
        return carry(np.ascontiguousarray(codes, np.uint8), scale, zero_point, self._form, out)


class Decode:
    """Stage: the tensors of a wire type become the named float32 tensors again; the packet's other tensors stay."""

    name = "decode"

    def __init__(self, names: Sequence[str], wire: WireType) -> None:
        """Raises ConfigError: what decompresses is not installed."""
        self._names = tuple(names)
        self._wire = wire
        self._form = WireForm.of(wire)
        if self._form.is_compressed:
            require_entropy_coder()

    def process(self, packet: Packet) -> None:
        """Raises FrameError for a scale that is not finite or codes that do not fit, MessageError for a missing tensor."""
        before = packet.tensors
        tensors = dict(before)
        for name in self._names:
            parts = {}
            for suffix in self._form.suffixes:
                parts[suffix] = tensor_of(packet, name + suffix, _dtype(suffix), self.name)
                del tensors[name + suffix]
            tensors[name] = decode(parts, self._wire)
        packet.tensors = tensors
        release_unread(packet, before)

    def close(self) -> None:
        """Nothing to free."""


def _dtype(suffix: str) -> str:
    """Of the tensor that has this suffix."""
    if suffix in _PARAMETERS:
        return _PARAMETERS[suffix]
    return {"": "float32", "_fp16": "float16"}.get(suffix, "uint8")


def _grid(shape: tuple[int, ...], num_scales: int) -> tuple[int, int, int]:
    """Axis 1 has the scales, and axis 2 elements in a row that share one."""
    return (shape[0], num_scales, math.prod(shape[2:])) if num_scales > 1 else (1, 1, math.prod(shape))


def _codes(parts: Mapping[str, Array], form: WireForm) -> Codes:
    """One code a byte, in the tensor's shape. Raises FrameError where they do not fit it."""
    carried = parts[form.suffixes[0]].astype(np.uint8, copy=False)
    if "_shape" not in form.suffixes:
        return carried
    shape = parts["_shape"].tolist()
    num = math.prod(shape)
    if min(shape, default=0) < 0:
        raise FrameError(f"a {form.name} tensor came with the shape {shape}")
    if form.is_compressed:
        return cast("Codes", decompress(carried, num).reshape(shape))
    if carried.size != form.num_code_bytes(num):
        raise FrameError(f"a {form.name} tensor of shape {shape} came with {carried.size} bytes")
    return cast("Codes", unpack(carried, form.bits, num).reshape(shape))


def _written(x: Array, out: Array | None) -> Array:
    """`x`, in `out` where there is one; float32 becomes what `out` is."""
    if out is None or out is x:
        return x
    np.copyto(out, x, casting="same_kind")
    return out


def _quantise(x: _Floats, inverse: _Floats, zero_point: _Floats, max_code: np.float32, codes: Codes) -> None:
    """`x` [scales, n] into `codes` of the same shape, in blocks of rows, or of parts of a row that is long."""
    length = x.shape[1]
    num_rows = max(1, _BLOCK // max(1, length))
    scratch = np.empty(min(x.size, max(_BLOCK, num_rows)), np.float32)
    for top in range(0, len(x), num_rows):
        rows = slice(top, top + num_rows)
        for left in range(0, length, _BLOCK):
            part = x[rows, left : left + _BLOCK]
            steps = scratch[: part.size].reshape(part.shape)
            np.multiply(part, inverse[rows, np.newaxis], out=steps)
            np.rint(steps, out=steps)
            np.add(steps, zero_point[rows, np.newaxis], out=steps)
            np.clip(steps, 0, max_code, out=steps)
            np.copyto(codes[rows, left : left + _BLOCK], steps, casting="unsafe")
