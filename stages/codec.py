"""Wire types: a float32 tensor as the bytes that travel, and back.

    fp32     the tensor itself
    fp16     IEEE half precision, values beyond +-65504 clipped to it
    uint8    affine, one scale and one zero point per tensor (Jacob et al. 2018, section 2.1):
             low = min(min(x), 0), high = max(max(x), 0)      the range contains 0, so 0 is kept exactly
             scale = (high - low) * float32(1 / 255), 1 where that is below the smallest normal float32
             inverse = 1 / scale
             zero_point = clip(round(-low * inverse), 0, 255)
             q = clip(round(x * inverse) + zero_point, 0, 255)
             x = (float32(q) - float32(zero_point)) * scale

All in float32, rounding half to even. Decoding is off by at most scale / 2; a constant tensor comes back as that constant
(up to the rounding of float32). The graphs of a bundle do the same arithmetic and yield the same bytes; this is for
engines that cannot, and for the receiving side. It multiplies by reciprocals because OpenVINO makes that of every division
by one number, and the bytes must not depend on the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..pipeline.errors import FrameError
from ..pipeline.packet import Array, Packet, TensorSpec
from .bundle import WIRE_SUFFIXES, WireType
from .tensors import release_unread, tensor_of

_HALF_MAX = np.float32(65504)
_CODE_MAX = np.float32(255)
_PER_CODE = np.float32(1 / 255)
_SMALLEST_SCALE = np.finfo(np.float32).tiny
_DTYPES = {"": "float32", "_fp16": "float16", "_uint8": "uint8", "_scale": "float32", "_zero_point": "uint8"}
_SCALARS = ("_scale", "_zero_point")
_BLOCK = 1 << 15
"""Elements quantised at a time: the 128 KiB in between stay in the cache of the core, and nothing large is allocated."""


def wire_specs(name: str, shape: tuple[int | None, ...], wire: WireType) -> tuple[TensorSpec, ...]:
    """The tensors that carry float32 `name` of `shape`, in message order."""
    return tuple(
        TensorSpec(name + suffix, _DTYPES[suffix], (1,) if suffix in _SCALARS else shape)
        for suffix in WIRE_SUFFIXES[wire]
    )


def encode(x: Array, wire: WireType, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Suffix -> array, in the order of `WIRE_SUFFIXES`; scale and zero point have shape [1], the others that of `x`.

    `x` is float32. Where `out` has a suffix, the result is written into that array, which must have the result's dtype
    and shape. Without, fp32 gives `x` itself back. Raises FrameError: a value is not finite, or the range is too wide.
    """
    out = out or {}
    low, high = np.float32(x.min(initial=0)), np.float32(x.max(initial=0))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise FrameError("a tensor for the wire has values that are not finite")
    if wire == "fp32":
        return {"": _written(x, out.get(""))}
    if wire == "fp16":
        inside = low >= -_HALF_MAX and high <= _HALF_MAX
        half = out.get("_fp16")
        if half is None:
            half = np.empty(x.shape, np.float16)
        return {"_fp16": _written(x if inside else np.clip(x, -_HALF_MAX, _HALF_MAX), half)}
    with np.errstate(over="ignore", under="ignore"):
        scale = (high - low) * _PER_CODE
    if not np.isfinite(scale):
        raise FrameError(f"a tensor with values from {low:.3g} to {high:.3g} is too wide for uint8")
    if scale < _SMALLEST_SCALE:
        scale = np.float32(1)
    inverse = np.float32(1) / scale
    zero_point = np.clip(np.rint(-low * inverse), np.float32(0), _CODE_MAX)
    codes = out.get("_uint8")
    if codes is None:
        codes = np.empty(x.shape, np.uint8)
    _quantise(x.reshape(-1), inverse, zero_point, codes.reshape(-1))
    return {
        "_uint8": codes,
        "_scale": _written(np.array([scale], np.float32), out.get("_scale")),
        "_zero_point": _written(np.array([zero_point], np.uint8), out.get("_zero_point")),
    }


def decode(parts: Mapping[str, Array], wire: WireType) -> npt.NDArray[np.float32]:
    """The float32 tensor from what `encode` returned. fp32 gives the very array back, the others a new one.

    Raises FrameError: the scale is not a positive finite number.
    """
    if wire == "fp32":
        return parts[""].astype(np.float32, copy=False)
    if wire == "fp16":
        return parts["_fp16"].astype(np.float32)
    scale = np.float32(parts["_scale"][0])
    if not 0 < scale < np.inf:
        raise FrameError(f"a uint8 tensor came with the scale {scale}: what was encoded was not finite")
    x = parts["_uint8"].astype(np.float32)
    x -= np.float32(parts["_zero_point"][0])
    x *= scale
    return x


class Encode:
    """Stage: the named float32 tensors become the tensors of a wire type; the packet's other tensors are dropped."""

    name = "encode"

    def __init__(
        self, names: Sequence[str], wire: WireType, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        """`shapes` are those of the named tensors where they are fixed: then it writes straight into a send buffer."""
        self._names = tuple(names)
        self._wire = wire
        self._shapes = shapes

    def process(self, packet: Packet) -> None:
        """Raises FrameError for values that are not finite, MessageError for a tensor that is missing."""
        before = packet.tensors
        targets = packet.targets or {}
        encoded: dict[str, Array] = {}
        for name in self._names:
            x = tensor_of(packet, name, "float32", self.name)
            out = {suffix: targets[name + suffix] for suffix in WIRE_SUFFIXES[self._wire] if name + suffix in targets}
            encoded.update((name + suffix, array) for suffix, array in encode(x, self._wire, out).items())
        packet.tensors = encoded
        release_unread(packet, before)

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """What `process` leaves in the packet, in order; None when the shapes vary by frame."""
        if self._shapes is None:
            return None
        return tuple(spec for name in self._names for spec in wire_specs(name, self._shapes[name], self._wire))

    def close(self) -> None:
        """Nothing to free."""


class Decode:
    """Stage: the tensors of a wire type become the named float32 tensors again; the packet's other tensors stay."""

    name = "decode"

    def __init__(self, names: Sequence[str], wire: WireType) -> None:
        self._names = tuple(names)
        self._wire = wire

    def process(self, packet: Packet) -> None:
        """Raises FrameError for a scale that is not finite, MessageError for a tensor that is missing."""
        before = packet.tensors
        tensors = dict(before)
        for name in self._names:
            parts = {}
            for suffix in WIRE_SUFFIXES[self._wire]:
                parts[suffix] = tensor_of(packet, name + suffix, _DTYPES[suffix], self.name)
                del tensors[name + suffix]
            tensors[name] = decode(parts, self._wire)
        packet.tensors = tensors
        release_unread(packet, before)

    def close(self) -> None:
        """Nothing to free."""


def _written(x: Array, out: Array | None) -> Array:
    """`x`, in `out` where there is one; float32 becomes what `out` is."""
    if out is None:
        return x
    np.copyto(out, x, casting="same_kind")
    return out


def _quantise(x: Array, inverse: np.float32, zero_point: np.float32, codes: Array) -> None:
    """Flat float32 `x` into flat uint8 `codes`."""
    scratch = np.empty(min(_BLOCK, len(x)), np.float32)
    for begin in range(0, len(x), _BLOCK):
        part = x[begin : begin + _BLOCK]
        steps = scratch[: len(part)]
        np.multiply(part, inverse, out=steps)
        np.rint(steps, out=steps)
        np.add(steps, zero_point, out=steps)
        np.clip(steps, 0, 255, out=steps)
        np.copyto(codes[begin : begin + _BLOCK], steps, casting="unsafe")
