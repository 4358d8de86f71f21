"""The names of what a tensor between two ranks may travel as."""

from __future__ import annotations

from typing import Literal

WIRE_SUFFIXES: dict[str, tuple[str, ...]] = {
    "fp32": ("",),
    "fp16": ("_fp16",),
    "uint8": ("_uint8", "_scale", "_zero_point"),
}
"""Wire type that a graph makes itself -> suffixes of the outputs that carry it, in message order."""

WireType = Literal[
    "fp32",
    "fp16",
    "uint8",
    "uint8-channel",
    "uint8+zstd",
    "uint8-channel+zstd",
    "uint6",
    "uint6-channel",
    "uint6+zstd",
    "uint6-channel+zstd",
    "uint4",
    "uint4-channel",
    "uint4+zstd",
    "uint4-channel+zstd",
]
"""What a tensor between two ranks may travel as (`wire.py`); what no graph makes, `codec.py` makes from what it does."""
