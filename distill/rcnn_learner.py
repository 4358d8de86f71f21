"""A Faster R-CNN that learns boxes: torchvision's own losses on images that are resized already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.pixels import normalise
from ..models.rcnn import Rcnn
from .boxes import to_corners
from .learner import Batch
from .targets import Targets

from torchvision.models.detection.image_list import ImageList  # isort: skip  # behind rcnn, which makes it importable

_SMALLEST_BOX = 1e-2
"""Pixels a side. What a crop leaves of an object at the image's border may have none."""


class RcnnLearner(nn.Module):
    """Owns `rcnn`. Of each image `num_anchors` anchors and `num_regions` proposals, chosen at random, are learnt from.

    Source: Ren et al. 2015, section 3.1.2 and 3.1.3 (256 anchors, half of them objects); Lin et al. 2017 (512 regions, a quarter
    of them objects).
    """

    def __init__(self, rcnn: Rcnn, num_anchors: int = 256, num_regions: int = 512) -> None:
        super().__init__()
        self.rcnn = rcnn
        rcnn.rpn.fg_bg_sampler.batch_size_per_image = num_anchors
        rcnn.roi_heads.fg_bg_sampler.batch_size_per_image = num_regions

    @property
    def detector(self) -> Rcnn:
        """What is left when the training is over."""
        return self.rcnn

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: "loss", the sum of torchvision's four, which follow: "objectness", "rpn_box_reg", "classifier", "box_reg"."""
        rcnn = self.rcnn
        images = normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
        levels = rcnn.backbone(images)
        truth = truth_of(batch.targets, batch.valid_size)
        sizes = [(height, width) for height, width in batch.valid_size.tolist()]
        # Overlaps and codes of boxes need float32, whatever the layers before computed in.
        with torch.autocast(images.device.type, enabled=False):
            levels = {name: level.float() for name, level in levels.items()}
            proposals, losses = rcnn.rpn(ImageList(images, sizes), levels, truth)
            # torchvision takes the scale of each level from these sizes, so they are those of the padded images.
            padded = [(images.shape[2], images.shape[3])] * len(images)
            losses |= rcnn.roi_heads(levels, proposals, padded, truth)[1]
        own = {name.removeprefix("loss_"): loss for name, loss in losses.items()}
        total = torch.stack(list(own.values())).sum()
        return {"loss": total, **{name: loss.detach() for name, loss in own.items()}}


def truth_of(targets: Targets, valid_size: Tensor) -> list[dict[str, Tensor]]:
    """As torchvision wants it, of each image: "boxes" float [N, 4] xyxy in pixels, "labels" int64 [N], the background being 0.

    `valid_size` int64 [B, 2]: height and width of what shows the image, which the boxes of `targets` are relative to. A box
    without area is left out.
    """
    boxes = to_corners(targets.boxes) * valid_size.flip(1).repeat(1, 2)[:, None]
    used = targets.used & ((boxes[..., 2:] - boxes[..., :2]) >= _SMALLEST_BOX).all(dim=2)
    return [
        {"boxes": some_boxes[some], "labels": some_labels[some]}
        for some_boxes, some_labels, some in zip(boxes, targets.labels, used, strict=True)
    ]
