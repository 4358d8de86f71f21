"""From a bundle's `pixels` to normalised images, the first operations of every head."""

from __future__ import annotations

import torch
from torch import Tensor

from .position import valid_pixels

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation, RGB, for values in [0, 1]."""


def normalise(pixels: Tensor, valid_size: Tensor) -> Tensor:
    """`pixels` uint8 or float [B, H, W, 3] RGB 0..255 to normalised images float [B, 3, H, W], zero outside the valid size.

    `valid_size` int64 [B, 2]. The padding is zero after the normalisation, as the references pad, whatever `pixels` holds there.
    """
    scale = torch.tensor([1 / (255 * std) for std in IMAGE_STD], device=pixels.device)[:, None, None]
    shift = torch.tensor([-mean / std for mean, std in zip(IMAGE_MEAN, IMAGE_STD, strict=True)], device=pixels.device)
    images = pixels.permute(0, 3, 1, 2).float() * scale + shift[:, None, None]
    return torch.where(valid_pixels(valid_size, (pixels.shape[1], pixels.shape[2])), images, 0.0)
