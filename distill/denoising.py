"""Training only: queries that begin at a disturbed true box and are to give the true one back.

They need no matching, so the decoder learns from the first step what a query's place means. Slots beyond the objects begin
at random boxes and are to say no-object. Source: Li et al. 2022 (DN-DETR, section 4); the empty ones after Zhang et al.
2023 (DINO, contrastive denoising).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.detr import DetrConfig
from .anchors import sine_of_points
from .matcher import Matches
from .targets import Targets

_SHIFT, _STRETCH, _FLIP = 0.4, 0.4, 0.2
"""Centre moved by up to this share of half the side, sides scaled by up to this share, labels replaced with this chance."""


class Denoising(nn.Module):
    """Makes the embeddings of a group of queries from the truth."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.num_queries = config.num_queries
        self.num_classes = config.num_classes
        self.d_model = config.d_model
        self.label_embed = nn.Embedding(config.num_classes, config.d_model)
        self.size_embed = nn.Linear(2, config.d_model)
        nn.init.normal_(self.label_embed.weight, std=0.2)

    def forward(self, targets: Targets) -> tuple[Tensor, Matches]:
        """Embeddings [B, Q, d], and which query is to give which object back. Objects beyond Q are left out.

        Takes its noise from torch's generator of the CPU.
        """
        num_images, device = len(targets.labels), targets.labels.device
        num_true = min(targets.labels.shape[1], self.num_queries)
        shape = (num_images, self.num_queries)
        boxes = torch.rand(*shape, 4).to(device)
        boxes[..., 2:] = boxes[..., 2:] * 0.5 + 0.05
        labels = torch.randint(self.num_classes, shape).to(device)
        noise = (torch.rand(*shape, 4) * 2 - 1).to(device)
        flip = (torch.rand(shape) < _FLIP).to(device)
        true = targets.boxes[:, :num_true]
        sides = true[..., 2:]
        centre = true[..., :2] + noise[:, :num_true, :2] * _SHIFT * sides / 2
        disturbed = torch.cat((centre, sides * (1 + _STRETCH * noise[:, :num_true, 2:])), dim=2).clamp(0, 1)
        used = targets.used[:, :num_true]
        boxes[:, :num_true] = torch.where(used[..., None], disturbed, boxes[:, :num_true])
        keep_label = used & ~flip[:, :num_true]
        labels[:, :num_true] = torch.where(keep_label, targets.labels[:, :num_true], labels[:, :num_true])
        queries = sine_of_points(boxes[..., :2], self.d_model) + self.size_embed(boxes[..., 2:])
        image, slot = torch.nonzero(used, as_tuple=True)
        return queries + self.label_embed(labels), Matches(image, slot, slot)
