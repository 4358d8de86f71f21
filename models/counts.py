"""Parameters and multiply-accumulates of a detector, counted without computing anything (on torch's meta device).

Conventions. *Parameters*: total is every parameter, trainable leaves out what DETR's training freezes, the stem's
convolution and layer1; frozen batch normalisation consists of buffers and counts in neither (so do the figures of
Carion et al. 2020 and of Titarsolej 2021); that of a bottleneck or an EfficientDet, which is trained, counts. *MACs*: one
multiplication with its addition, in convolutions, linear layers and the two matrix products of attention; no biases,
normalisations, activations, softmax or positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .bottleneck import ProjectionBottleneck, StudentLayer1
from .cut import cuts_of
from .detr import Detr, DetrConfig
from .efficientdet_config import EfficientDetConfig

FROZEN_PREFIXES = ("backbone.conv1.", "backbone.layer1.")
"""What DETR's training does not touch (Carion et al. 2020, published code)."""


class NumParameters(NamedTuple):
    """Parameters of a module; see the module's docstring for the convention."""

    total: int
    trainable: int


def num_parameters(detr: nn.Module, prefixes: tuple[str, ...] = ("",)) -> NumParameters:
    """Parameters of those parts of a detector whose names begin with one of `prefixes` (`Segment.prefixes`)."""
    named = [(name, parameter.numel()) for name, parameter in detr.named_parameters() if name.startswith(prefixes)]
    if isinstance(getattr(detr, "config", None), EfficientDetConfig):
        total = sum(count for _, count in named)
        return NumParameters(total, total)
    # A trained-from-scratch backbone has live normalisation; once exported it is frozen, so it never counts.
    named = [(name, count) for name, count in named if not _is_norm(detr, name)]
    total = sum(count for _, count in named)
    return NumParameters(total, total - sum(count for name, count in named if name.startswith(FROZEN_PREFIXES)))


def num_macs(config: DetrConfig, size: tuple[int, int] = (800, 1066)) -> dict[str, int]:
    """Multiply-accumulates for one image of `size` pixels, by part of the paper and for the "heads" behind the decoder."""
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
        features = count("projection", lambda: detr.project(c5))
        cells = detr.cells(features, torch.tensor([size]), size)
        memory = count("encoder", lambda: detr.encode(features, cells))
        state = count("decoder", lambda: detr.decode(memory, cells)[-1])
        count("heads", lambda: detr.predict(state).boxes)
    return macs


def wire_shapes(config: DetrConfig, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Cut -> shape [1, C, h, w] of its tensor for an input of `size` pixels."""
    quarter = tuple(-(-pixels // 4) for pixels in size)  # halving twice, rounded up each time, comes to the same
    cells = tuple(-(-pixels // (16 if config.dilation else 32)) for pixels in size)
    in_layer1 = config.bottleneck_at == "layer1"
    expansion = 4 if config.depth >= 50 else 1
    shapes = {
        "l0": (config.width, *quarter),
        "bottleneck": (config.bottleneck, *((side + 4 for side in quarter) if in_layer1 else cells)),
        "restored": (config.width * expansion, *quarter) if in_layer1 else (config.d_model, *cells),
        "c5": (config.width * 8 * expansion, *cells),
        "projection": (config.d_model, *cells),
        "memory": (config.d_model, *cells),
    }
    return {cut: (1, *shapes[cut]) for cut in cuts_of(config)}


def max_cells(short_side: int, max_long_side: int, stride: int, margin: int = 0) -> int:
    """Most cells that a feature map of this stride, `margin` cells larger each way, can have when images are scaled to a short
    side of `short_side` pixels, or less where the long one would exceed `max_long_side` (`stages/preprocess.py`)."""
    cells = 0
    for short in range(1, short_side + 1):
        # A short side below the wanted one was rounded from max_long_side / ratio, so the long one may be a little beyond.
        long = max(max_long_side, int(short * max_long_side / (short - 0.5)))
        cells = max(cells, (-(-short // stride) + margin) * (-(-long // stride) + margin))
    return cells


def _is_norm(detr: nn.Module, name: str) -> bool:
    if not isinstance(detr.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d):
        return False
    return not any(
        name.startswith(f"{prefix}.")
        for prefix, module in detr.named_modules()
        if isinstance(module, StudentLayer1 | ProjectionBottleneck)
    )
