"""A wire tensor in all its forms, as operations of the graph that makes it (`stages/bundle.py` names them).

The arithmetic is that of `stages/codec.py`, bit for bit: affine per tensor (Jacob et al. 2018), a range that contains 0,
rounding half to even, reciprocals instead of divisions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FP16_MAX = 65504.0
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def wire_forms(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """float32 [...] to itself, float16 (clipped to the largest half), uint8, its scale float32 [1], its zero point uint8 [1]."""
    half = x.clamp(-_FP16_MAX, _FP16_MAX).half()
    low = x.min().clamp(max=0.0).reshape(1)
    high = x.max().clamp(min=0.0).reshape(1)
    step = (high - low) * (1 / 255)
    # A constant 0 has no range: any scale keeps it.
    scale = torch.where(step < _SMALLEST_SCALE, torch.ones_like(step), step)
    inverse = scale.reciprocal()
    zero_point = torch.round(-low * inverse).clamp(0.0, 255.0)
    codes = (torch.round(x * inverse) + zero_point).clamp(0.0, 255.0)
    return x, half, codes.to(torch.uint8), scale, zero_point.to(torch.uint8)
