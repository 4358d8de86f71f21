"""The forms in which tensors travel between ranks, by the names that `--wire` takes.

fp32 | fp16 | uintB | uintB-channel | uintB+zstd | uintB-channel+zstd        B is 8, 6 or 4

uintB       affine, B bits an element, packed: one scale and one zero point for the whole tensor
-channel    one scale and one zero point for each channel (axis 1)
+zstd       the codes, one byte each, compressed losslessly by zstandard: how long a message is depends on the frame
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from ..pipeline.errors import ConfigError
from ..pipeline.message import ALIGNMENT_BYTES, MAX_DIMENSIONS
from .bundle import WIRE_SUFFIXES, WireType

WIRES: tuple[WireType, ...] = get_args(WireType)
"""All of them, from the most bytes to the fewest."""

GraphForm = Literal["fp32", "fp16", "uint8"]


@dataclass(frozen=True, slots=True)
class WireForm:
    """What a wire type consists of."""

    name: WireType
    bits: int
    """Of an element, before it is compressed."""
    per_channel: bool = False
    is_compressed: bool = False

    @staticmethod
    @cache
    def of(wire: str) -> WireForm:
        """The form of that name. Raises ConfigError naming those there are."""
        for name in WIRES:
            if name == wire:
                base, _, compression = name.partition("+")
                number, _, channel = base.partition("-")
                bits = int(number.removeprefix("uint").removeprefix("fp"))
                return WireForm(name, bits, bool(channel), bool(compression))
        raise ConfigError(f"there is no wire type {wire!r}; choose among {', '.join(WIRES)}")

    @property
    def is_float(self) -> bool:
        """fp32 or fp16: no codes."""
        return self.bits > 8

    @property
    def max_code(self) -> int:
        """The largest code of an affine form."""
        return (1 << self.bits) - 1

    @property
    def graph_form(self) -> GraphForm:
        """The output of a graph from which it is made: itself, uint8 that is then compressed, else fp32."""
        if self.name == "fp16" or self.name == "fp32":
            return self.name
        return "uint8" if self.bits == 8 and not self.per_channel else "fp32"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of the tensors that carry a tensor T add to its own, in message order.

        T_uint8 has the shape of T. Packed codes T_uint6 and T_uint4 are uint8 [ceil(n * bits / 8)] and compressed ones
        T_uintB_zstd are uint8 [m]; the shape of T is then in T_shape int32 [dimensions]. T_scale float32 and T_zero_point
        uint8 are [1], or [channels].
        """
        if self.is_float:
            return WIRE_SUFFIXES[self.name]
        if self.is_compressed:
            return (f"_uint{self.bits}_zstd", "_scale", "_zero_point", "_shape")
        return (f"_uint{self.bits}", "_scale", "_zero_point", *(("_shape",) if self.bits < 8 else ()))

    def num_parameters(self, shape: tuple[int, ...]) -> int:
        """How many scales a tensor of `shape` has: its channels, or one."""
        return shape[1] if self.per_channel and len(shape) > 1 else 1

    def num_code_bytes(self, num_elements: int) -> int:
        """Bytes of all elements without parameters; of a compressed form the most there can be (ZSTD_COMPRESSBOUND)."""
        if self.is_compressed:
            return num_elements + (num_elements >> 8) + 64
        return -(-num_elements * self.bits // 8)

    def max_bytes(self, num_elements: int, num_channels: int, num_tensors: int) -> int:
        """Upper bound of the payload that `num_tensors` tensors of together `num_elements` elements make, bytes;
        `num_channels` are those of all of them."""
        num_parts = len(self.suffixes) * num_tensors
        num_bytes = self.num_code_bytes(num_elements) + num_parts * ALIGNMENT_BYTES
        if not self.is_float:
            num_scales = num_channels if self.per_channel else num_tensors
            # What the bound of each tensor adds to that of all as one: a byte that is not full, zstandard's own 64.
            num_bytes += 5 * num_scales + (4 * MAX_DIMENSIONS + 65) * num_tensors
        return num_bytes
