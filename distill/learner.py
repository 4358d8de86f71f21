"""A DETR with what helps it to learn, and falls away afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.detr import Detr, Predictions
from .anchors import anchor_queries, look_around_anchors
from .denoising import Denoising
from .dense import DenseHead, cell_centres, dense_loss
from .detr_loss import DetrLoss, detr_loss
from .matcher import Matches, match
from .targets import Targets


class Batch(NamedTuple):
    """B images with their truth."""

    pixels: Tensor
    """[B, H, W, 3] RGB 0..255; uint8, float32 for an R-CNN."""
    valid_size: Tensor
    """int64 [B, 2] height and width of what shows the image; the rest is padding."""
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        return Batch(self.pixels.to(device), self.valid_size.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Assistance:
    """Accelerations of the training; none changes what is exported."""

    query_groups: int = 1
    """Independent sets of queries, each matched one to one; the first is the detector's (Chen et al. 2023, Group DETR)."""
    denoising_groups: int = 0
    """Sets of queries that begin at disturbed true boxes (`denoising.py`)."""
    dense: bool = False
    """Losses on every cell of the projected features and of the encoder's memory (`dense.py`)."""
    anchors: bool = False
    """Queries begin spread over the image, each looking around its place (`anchors.py`); only for random weights."""


class Losses(NamedTuple):
    """Scalars; `total` is what is minimised, the others, without weights, are to be looked at."""

    total: Tensor
    classes: Tensor
    l1: Tensor
    giou: Tensor
    auxiliary: Tensor
    """Of everything but the last decoder layer's matched queries, weighted."""


class Learner(nn.Module):
    """Owns `detr` and the training-only parts."""

    def __init__(self, detr: Detr, assistance: Assistance) -> None:
        super().__init__()
        self.detr = detr
        self.assistance = assistance
        config = detr.config
        num_more = (assistance.query_groups - 1) * config.num_queries
        self.more_queries = nn.Embedding(num_more, config.d_model) if num_more else None
        self.denoising = Denoising(config) if assistance.denoising_groups else None
        self.dense_head = DenseHead(config.d_model, config.num_classes) if assistance.dense else None
        if assistance.anchors:
            look_around_anchors(detr)
            anchor_queries(detr.query_embed)
            if self.more_queries is not None:
                # Other points than the detector's own, else the groups would learn the same from the same.
                anchor_queries(self.more_queries, first=config.num_queries)

    def forward(self, batch: Batch, *, dense_only: bool = False) -> Losses:
        """The losses of a batch; with `dense_only` just the one on the projected features."""
        detr, targets = self.detr, batch.targets
        height, width = batch.pixels.shape[1:3]
        images = detr.normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
        features = detr.project(detr.backbone(images))
        feature_size = (features.shape[2], features.shape[3])
        centres = cell_centres(feature_size, batch.valid_size / torch.tensor((height, width), device=images.device))
        zero = torch.zeros((), device=images.device)
        auxiliary: list[DetrLoss] = []
        if self.dense_head is not None:
            of_features = self.dense_head(features.flatten(2).transpose(1, 2), centres)
            auxiliary.append(dense_loss(of_features, targets, centres, feature_size))
        if dense_only:
            (only,) = auxiliary
            return Losses(only.total, only.classes.detach(), only.l1.detach(), only.giou.detach(), zero)

        cells = detr.cells(features, batch.valid_size, (height, width))
        rows = detr.encode(features, cells).flatten(2).transpose(1, 2)
        if self.dense_head is not None:
            auxiliary.append(dense_loss(detr.predict(rows), targets, centres, feature_size))
        queries, denoised = self._queries(targets)
        num_groups, num_matched = queries.shape[1], self.assistance.query_groups
        states = detr.transformer.decoder(queries.flatten(1, 2), rows, cells.mask, cells.positions, num_groups)
        several = targets.repeated(num_matched)
        of_layers: list[DetrLoss] = []
        for state in states:
            logits, boxes = (value.unflatten(1, (num_groups, -1)) for value in detr.predict(state))  # type: ignore[no-untyped-call]
            matched = Predictions(logits[:, :num_matched].flatten(0, 1), boxes[:, :num_matched].flatten(0, 1))
            of_layers.append(detr_loss(matched, several, match(matched, several)))
            if denoised is not None:
                disturbed = Predictions(logits[:, num_matched:].flatten(0, 1), boxes[:, num_matched:].flatten(0, 1))
                auxiliary.append(detr_loss(disturbed, *denoised))
        *earlier, last = of_layers
        helped = sum((loss.total for loss in (*earlier, *auxiliary)), zero)
        return Losses(last.total + helped, last.classes.detach(), last.l1.detach(), last.giou.detach(), helped.detach())

    def _queries(self, targets: Targets) -> tuple[Tensor, tuple[Targets, Matches] | None]:
        """Embeddings [B, groups, Q, d], matched groups first; and of the denoising ones the truth and who gives what back."""
        num_images, num_queries = len(targets.labels), self.detr.config.num_queries
        own = self.detr.query_embed.weight
        matched = own if self.more_queries is None else torch.cat((own, self.more_queries.weight))
        queries = matched.reshape(-1, num_queries, matched.shape[1]).expand(num_images, -1, -1, -1)
        if self.denoising is None:
            return queries, None
        repeated = targets.repeated(self.assistance.denoising_groups)
        disturbed, matches = self.denoising(repeated)
        disturbed = disturbed.reshape(num_images, -1, *disturbed.shape[1:])
        return torch.cat((queries, disturbed), dim=1), (repeated, matches)
