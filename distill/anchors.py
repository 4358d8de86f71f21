"""A start from which DETR's queries need not find out where they look.

A query's embedding is added to what its attention asks with, and the sine positions to what the memory answers with. So a
query whose embedding *is* the sine position of a point, under projections that keep the fast sines, attends to the
surroundings of that point from the first step (the idea of Liu et al. 2022, DAB-DETR, and Wang et al. 2022, Anchor DETR). Only
initial values are set: the graph stays DETR's and all of it goes on learning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..models.attention import Attention
from ..models.detr import Detr
from ..models.transformer import DecoderLayer, EncoderLayer

_TEMPERATURE = 10_000.0
_SHARPNESS = (4.0, 1.5)
"""Of every other head: logit per unit of the fast sines' agreement. 4 looks about 0.06 of the image around, 1.5 about 0.1."""
_OFFSETS = ((0.0, 0.0), (0.0, 0.0), (-0.08, 0.0), (0.08, 0.0), (0.0, -0.08), (0.0, 0.08))
"""Where the heads look in turn, (x, y) from the query's point, as a share of the image."""
_QUIET = 0.1
"""Scale of the content in the channels that positions are to be read from."""


def sine_of_points(points: Tensor, d_model: int) -> Tensor:
    """[..., 2] (x, y) in [0, 1] to [..., d_model]: the position that `models/position.py` gives a cell that ends there."""
    return torch.cat((_sine(points[..., 1], d_model // 2), _sine(points[..., 0], d_model // 2)), dim=-1)


def spread_points(num_points: int) -> Tensor:
    """[num_points, 2] (x, y) in [0, 1]: the R2 sequence (Roberts 2018), any stretch of which is evenly spread."""
    ratio = 1.32471795724474602596
    step = torch.tensor((1 / ratio, 1 / ratio**2), dtype=torch.float64)
    return ((0.5 + step * torch.arange(1, num_points + 1, dtype=torch.float64)[:, None]) % 1).float()


@torch.no_grad()
def anchor_queries(queries: nn.Embedding, first: int = 0) -> None:
    """Set `queries` to evenly spread points, beginning with number `first` of the sequence."""
    num, d_model = queries.weight.shape
    queries.weight.copy_(sine_of_points(spread_points(first + num)[first:], d_model))


@torch.no_grad()
def look_around_anchors(detr: Detr) -> None:
    """Set the decoder's attention to the memory so that a query which is a position looks around it."""
    config = detr.config
    pairs = min(config.d_model // config.heads // 4, config.d_model // 4)
    if pairs < 1:
        return
    half = config.d_model // 2
    fast = torch.cat((torch.arange(2 * pairs), half + torch.arange(2 * pairs)))
    for layer in detr.transformer.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        _look(layer.multihead_attn, fast, pairs)
        layer.norm1.weight[fast] = _QUIET
    if config.encoder_layers:
        last = detr.transformer.encoder.layers[-1]
        assert isinstance(last, EncoderLayer)
        last.norm2.weight[fast] = _QUIET


def _look(attention: Attention, fast: Tensor, pairs: int) -> None:
    """Head h asks with the fast sines turned by its offset, and is answered with the fast sines."""
    d, width = attention.d_model, attention.d_model // attention.heads
    periods = torch.tensor([_TEMPERATURE ** (2 * i / (d // 2)) for i in range(pairs)])
    for head in range(attention.heads):
        gain = math.sqrt(_SHARPNESS[head % len(_SHARPNESS)] * math.sqrt(width))
        rows = torch.arange(4 * pairs) + head * width
        x, y = _OFFSETS[head % len(_OFFSETS)]
        turn = torch.zeros(4 * pairs, 4 * pairs)
        for number, angle in enumerate(2 * math.pi * offset / period for offset in (y, x) for period in periods):
            turn[2 * number : 2 * number + 2, 2 * number : 2 * number + 2] = _rotation(angle)
        for begin, mixing in ((0, turn), (d, torch.eye(4 * pairs))):
            attention.in_proj_weight[begin + head * width : begin + (head + 1) * width].mul_(_QUIET)
            attention.in_proj_weight[begin + rows[:, None], fast[None]] = gain * mixing


def _rotation(angle: Tensor) -> Tensor:
    """[2, 2]: (sin a, cos a) to (sin(a + angle), cos(a + angle))."""
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack((torch.stack((cosine, sine)), torch.stack((-sine, cosine))))


def _sine(values: Tensor, num_channels: int) -> Tensor:
    periods = torch.tensor(
        [_TEMPERATURE ** (2 * i / num_channels) for i in range(num_channels // 2)], device=values.device
    )
    phase = 2 * math.pi * values[..., None] / periods
    return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-2)
