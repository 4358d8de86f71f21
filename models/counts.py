"""Parameters and multiply-accumulates of a detector, counted without computing anything (on torch's meta device).

Conventions. *Parameters*: total is every parameter, trainable leaves out what DETR's training freezes, the stem's
convolution and layer1; frozen batch normalisation consists of buffers and counts in neither (so do the figures of
Carion et al. 2020 and of Titarsolej 2021). *MACs*: one multiplication with its addition, in convolutions, linear
layers and the two matrix products of attention; no biases, normalisations, activations, softmax or positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .cut import CUTS
from .detr import Detr, DetrConfig

FROZEN_PREFIXES = ("backbone.conv1.", "backbone.layer1.")
"""What DETR's training does not touch (Carion et al. 2020, published code)."""


class NumParameters(NamedTuple):
    """Parameters of a module; see the module's docstring for the convention."""

    total: int
    trainable: int


def num_parameters(detr: Detr, prefixes: tuple[str, ...] = ("",)) -> NumParameters:
    """Parameters of those parts of `detr` whose names begin with one of `prefixes` (`Segment.prefixes`)."""
    named = [(name, parameter.numel()) for name, parameter in detr.named_parameters() if name.startswith(prefixes)]
    # A trained-from-scratch backbone has live normalisation; once exported it is frozen, so it never counts.
    named = [(name, count) for name, count in named if not _is_norm(detr, name)]
    total = sum(count for _, count in named)
    return NumParameters(total, total - sum(count for name, count in named if name.startswith(FROZEN_PREFIXES)))


def num_macs(config: DetrConfig, size: tuple[int, int] = (800, 1066)) -> dict[str, int]:
    """Multiply-accumulates for one image of `size` pixels, by part (`cut.PARTS`) and for the "heads" behind the decoder."""
    macs: dict[str, int] = {}

    def count(part: str, compute: Callable[[], Tensor]) -> Tensor:
        counter = FlopCounterMode(display=False)
        with counter:
            result = compute()
        macs[part] = counter.get_total_flops() // 2
        return result

    with torch.device("meta"):
        detr = Detr(config).eval().requires_grad_(False)
        images = torch.zeros(1, 3, *size)
        c5 = count("backbone", lambda: detr.backbone(images))
        features = count("projection", lambda: detr.input_proj(c5))
        cells = detr.cells(features, torch.tensor([size]), size)
        memory = count("encoder", lambda: detr.encode(features, cells))
        state = count("decoder", lambda: detr.decode(memory, cells)[-1])
        count("heads", lambda: detr.predict(state).boxes)
    return macs


def wire_shapes(config: DetrConfig, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Cut -> shape [1, C, h, w] of its tensor for an input of `size` pixels."""
    stride = 16 if config.dilation else 32
    channels = config.width * 8 * (4 if config.depth >= 50 else 1)
    cells = tuple(-(-pixels // stride) for pixels in size)
    return {cut: (1, channels if cut == "c5" else config.d_model, *cells) for cut in CUTS}


def max_cells(short_side: int, max_long_side: int, stride: int) -> int:
    """Most cells that a feature map of this stride can have when images are scaled to a short side of `short_side` pixels,
    or less where the long one would exceed `max_long_side` (`stages/preprocess.py`)."""
    cells = 0
    for short in range(1, short_side + 1):
        # A short side below the wanted one was rounded from max_long_side / ratio, so the long one may be a little beyond.
        long = max(max_long_side, int(short * max_long_side / (short - 0.5)))
        cells = max(cells, -(-short // stride) * -(-long // stride))
    return cells


def _is_norm(detr: Detr, name: str) -> bool:
    return isinstance(detr.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
