"""An inverted residual block with slimmable layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .slimmable import SlimmableBatchNorm2d, SlimmableConv2d


def slim_block(
    block: nn.Module,
    widths: Sequence[float],
    *,
    slim_in: bool = False,
    slim_inside: bool = False,
    slim_out: bool = False,
) -> None:
    """Make the layers of `block`, an inverted residual of timm or a `compressor.MBConv`, slimmable in place.

    `slim_in`, `slim_inside` and `slim_out` say whether its input, its expanded channels (and those of its squeeze) and its output
    follow the width. A normalisation gets statistics by width where anything before it does.
    """
    layers: Any = block
    _conv(layers, "conv_pw", slim_in, slim_inside)
    _norm(layers, "bn1", widths, slim_inside, slim_in)
    _conv(layers, "conv_dw", slim_inside, slim_inside)
    _norm(layers, "bn2", widths, slim_inside, slim_in)
    _conv(layers.se, "conv_reduce", slim_inside, slim_inside)
    _conv(layers.se, "conv_expand", slim_inside, slim_inside)
    _conv(layers, "conv_pwl", slim_inside, slim_out)
    _norm(layers, "bn3", widths, slim_out, slim_in or slim_inside)


def _conv(parent: Any, name: str, slim_in: bool, slim_out: bool) -> None:
    if slim_in or slim_out:
        setattr(parent, name, SlimmableConv2d(getattr(parent, name), slim_in=slim_in, slim_out=slim_out))


def _norm(parent: Any, name: str, widths: Sequence[float], slim: bool, follows: bool) -> None:
    if slim or follows:
        setattr(parent, name, SlimmableBatchNorm2d(getattr(parent, name), widths, slim=slim))
