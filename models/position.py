"""Which cells of the feature map show the image, and where they are: padding mask and sine positions.

Source: Carion et al. 2020, section A.4 and the published code. Everything is derived from the valid size, so neither masks
nor positions ever cross the wire. Written with comparisons, minima and sums only: TensorRT 8 has no CumSum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MASKED = -1e9
"""Makes the weight of a masked key exactly 0 in fp32, and unlike -inf can make no NaN."""
_TEMPERATURE = 10_000.0
_EPS = 1e-6


class Cells(NamedTuple):
    """The cells of a feature map of h x w, flattened row by row."""

    mask: Tensor
    """float [B, 1, 1, h * w], to be added to attention's scores: 0 where the cell shows the image, else `MASKED`."""
    positions: Tensor
    """float [B, h * w, d]: the first half of the channels is the row's, the second the column's."""


def cells_of(
    valid_size: Tensor, feature_size: tuple[int, int], pixel_size: tuple[int, int] | None, d_model: int, stride: int
) -> Cells:
    """Mask and positions of a feature map.

    `valid_size` int64 [B, 2] is height and width, in pixels, of the part of the network's input that shows the image (top left);
    `pixel_size` that of the whole input. Cell i of h then stands for pixel row floor(i * H / h), which is how the reference
    shrinks its mask (nearest neighbour). Without `pixel_size` (dynamic graphs, where the tail sees only features) the input
    counts as `stride` * h: the same for an image without padding, and for one padded to a multiple of `stride`.
    """
    height, width = feature_size
    if pixel_size is not None:
        height, width = int(height), int(width)  # constants where a graph of fixed size is traced
    rows = _axis(valid_size[:, :1], height, pixel_size[0] if pixel_size else None, stride)
    columns = _axis(valid_size[:, 1:], width, pixel_size[1] if pixel_size else None, stride)
    valid = (rows[:, :, None] & columns[:, None, :]).reshape(len(valid_size), 1, 1, -1)
    y, x = _sine(rows, d_model // 2), _sine(columns, d_model // 2)
    # Sums instead of a concatenation of expanded tensors, which would cost a dynamic graph a dozen operations on shapes.
    first_half = (torch.arange(d_model, device=y.device) < d_model // 2).to(y.dtype)
    y = torch.cat((y, y), dim=2) * first_half
    x = torch.cat((x, x), dim=2) * (1 - first_half)
    positions = y[:, :, None, :] + x[:, None, :, :]
    return Cells(torch.where(valid, 0.0, MASKED), positions.reshape(len(valid_size), -1, d_model))


def valid_pixels(valid_size: Tensor, pixel_size: tuple[int, int]) -> Tensor:
    """bool [B, 1, H, W]: true where the network's input shows the image."""
    rows = torch.arange(pixel_size[0], device=valid_size.device)[None] < valid_size[:, :1]
    columns = torch.arange(pixel_size[1], device=valid_size.device)[None] < valid_size[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _axis(num_valid: Tensor, num_cells: int, num_pixels: int | None, stride: int) -> Tensor:
    """bool [B, num_cells]. Integers throughout: an engine at bfloat16 would round pixel numbers above 256."""
    index = torch.arange(num_cells, device=num_valid.device)
    first_pixel = torch.floor(index.float() * (num_pixels / num_cells)).long() if num_pixels else index * stride
    return first_pixel[None] < num_valid


def _sine(valid: Tensor, num_channels: int) -> Tensor:
    """bool [B, n] to float [B, n, num_channels]: sine and cosine in turn of the position, 2 pi at the last valid cell."""
    num_valid = valid.sum(1, keepdim=True)
    index = torch.arange(1, valid.shape[1] + 1, device=valid.device)[None]
    angle = torch.minimum(index, num_valid).float() / (num_valid.float() + _EPS) * (2 * math.pi)
    periods = torch.tensor(
        [_TEMPERATURE ** (2 * i / num_channels) for i in range(num_channels // 2)], device=valid.device
    )
    phase = angle[:, :, None] / periods
    return torch.stack((phase.sin(), phase.cos()), dim=3).reshape(len(valid), -1, num_channels)
