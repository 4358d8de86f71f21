"""The neural filter: whether a frame has any object, from the output of a detector's stem.

Source: Matsubara and Levorato 2020, "Neural Compression and Filtering for Edge-assisted Real-time Object Detection in
Challenged Networks", section 5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_IN, _OUT = 64, 8
"""Cells a side that its convolutions begin and end with, whatever the size of the image."""


class NeuralFilterNet(nn.Module):
    """L0, the stem's output float [B, `num_channels`, h, w], to two logits [B, 2]: no object, some object.

    Adaptive pooling to 64x64, three convolutions with batch normalisation and ReLU down to 16x14x14, adaptive pooling to 8x8,
    one linear layer. With 64 channels 88,402 parameters, and 67.5 M multiply-accumulates of the convolutions and the linear
    layer at any image size.
    """

    def __init__(self, num_channels: int = 64) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.layers = nn.Sequential(
            nn.Conv2d(num_channels, 64, 4, 2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 32, 3, 2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 16, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16 * _OUT * _OUT, 2)

    def forward(self, l0: Tensor) -> Tensor:
        """`l0` float [B, num_channels, h, w] to logits [B, 2]."""
        features = self.layers(_pool(l0, _IN))
        return self.head(_pool(features, _OUT).flatten(1))  # type: ignore[no-any-return]

    def objectness(self, l0: Tensor) -> Tensor:
        """`l0` to the probability [B] in [0, 1] that there is an object."""
        return self(l0).softmax(dim=1)[:, 1]  # type: ignore[no-any-return]


def _pool(x: Tensor, num_cells: int) -> Tensor:
    """Adaptive average pooling of [B, C, h, w] to [B, C, num_cells, num_cells].

    ONNX has no such operation. As it averages rows and columns apart, a graph has two matrix products instead.
    """
    if not torch.onnx.is_in_onnx_export():
        return F.adaptive_avg_pool2d(x, num_cells)
    rows, columns = (pooling_matrix(x.shape[axis], num_cells) for axis in (2, 3))
    return torch.matmul(torch.matmul(rows, x), columns.transpose(0, 1))


def pooling_matrix(size: int, num_cells: int) -> Tensor:
    """float32 [num_cells, size]: row i averages the cells from floor(i * size / n) up to ceil((i + 1) * size / n), as torch's
    adaptive average pooling does. While a graph is traced `size` is a tensor, so that it may vary by frame."""
    cells = torch.arange(num_cells)[:, None]
    begin = torch.div(cells * size, num_cells, rounding_mode="floor")
    end = torch.div((cells + 1) * size + (num_cells - 1), num_cells, rounding_mode="floor")
    places = torch.arange(size)[None]
    inside = (places >= begin) & (places < end)
    weights: Tensor = inside.float() / (end - begin).float()
    return weights
