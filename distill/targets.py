"""The truth of a batch, padded to the same number of objects per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pipeline.packet import Array


class Targets(NamedTuple):
    """What is in each of B images, in M slots of which the first few are used."""

    boxes: Tensor
    """float [B, M, 4] cxcywh in [0, 1], relative to the valid part of each image; zero in unused slots."""
    labels: Tensor
    """int64 [B, M]; 0 in unused slots."""
    used: Tensor
    """bool [B, M]."""

    @staticmethod
    def of(boxes: Sequence[Array], labels: Sequence[Array]) -> Targets:
        """From one array of boxes [N, 4], as above, and one of labels [N] per image."""
        most = max((len(each) for each in labels), default=0)
        targets = Targets(
            torch.zeros(len(labels), most, 4),
            torch.zeros(len(labels), most, dtype=torch.int64),
            torch.zeros(len(labels), most, dtype=torch.bool),
        )
        for index, (some_boxes, some_labels) in enumerate(zip(boxes, labels, strict=True)):
            num = len(some_labels)
            targets.boxes[index, :num] = torch.from_numpy(np.asarray(some_boxes, np.float32).reshape(num, 4))
            targets.labels[index, :num] = torch.from_numpy(np.asarray(some_labels, np.int64))
            targets.used[index, :num] = True
        return targets

    def repeated(self, num_times: int) -> Targets:
        """Every image `num_times` in a row: [B * num_times, M]."""
        return Targets(*(value.repeat_interleave(num_times, dim=0) for value in self))

    def to(self, device: torch.device) -> Targets:
        """On another device."""
        return Targets(*(value.to(device) for value in self))
