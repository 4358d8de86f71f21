"""Every choice in an R-CNN; apart from the model, so that it is known without torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..pipeline.errors import ConfigError
from .resnet import Norm
from .slimmable import Configurable, check_slimmable

RcnnKind = Literal["faster", "mask", "keypoint"]
STRIDE = 32
"""Both sides of the network's input are multiples of this many pixels."""
MAX_DETECTIONS = 100
SCORE_FLOOR = 0.05
"""Detections below are never made."""
FINEST_LEVELS = (2, 3)
COARSEST_LEVEL = 6
"""Of the pyramid; regions are proposed there, and pooled from the finer ones only."""
_AT_LEAST_1 = ("num_classes", "num_keypoints", "fpn", "box_head", "anchor", "num_proposals")


@dataclass(frozen=True)
class RcnnConfig:
    """Every choice in an R-CNN; the defaults are Faster R-CNN R50 as published for COCO."""

    kind: RcnnKind = "faster"
    depth: int = 50
    """ResNet-18, 34, 50 or 101."""
    num_classes: int = 91
    """With the background, which is label 0; COCO's ids go up to 90. People only, for keypoints: 2."""
    num_keypoints: int = 17
    bottleneck: int = 0
    """Channels of a learned bottleneck inside layer1; 0: none."""
    widths: tuple[float, ...] = ()
    """Fractions of the bottleneck's active channels that one set of weights serves; none: not slimmable."""
    configurable: Configurable = "bandwidth"
    """bandwidth: only what is next to the wire is slimmed. computation: all of the bottleneck's encoder."""
    width: int = 64
    """Channels of the ResNet's stem; everything in the ResNet scales with it."""
    fpn: int = 256
    """Channels of the pyramid; the mask and keypoint heads scale with it."""
    box_head: int = 1024
    """Width of the two linear layers of the box head."""
    anchor: int = 32
    """Side of the anchors of the finest level, pixels; each coarser level doubles it."""
    short_side: int = 800
    max_long_side: int = 1333
    """What images are scaled to, pixels."""
    num_proposals: int = 1000
    """Best regions of a level that are looked at, and of all levels that the box head sees; the same in training."""
    finest_level: int = 2
    """Of the pyramid: 2 is at stride 4, on layer1; 3 at stride 8, on layer2, for a fraction of the cost on small images."""
    norm: Norm = "frozen"
    """Is "batch" only while a backbone is trained from scratch."""
    norm_eps: float = 1e-5
    """Of the ResNet's normalisation; 0 for the published weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", check_slimmable(self.widths, self.configurable, self.bottleneck))
        if self.kind not in ("faster", "mask", "keypoint"):
            raise ConfigError(f"there is no {self.kind!r} R-CNN; choose faster, mask or keypoint")
        for name in _AT_LEAST_1:
            if getattr(self, name) < 1:
                raise ConfigError(f"an R-CNN cannot have {name} = {getattr(self, name)}; give at least 1")
        if self.finest_level not in FINEST_LEVELS:
            raise ConfigError(f"a pyramid cannot begin at level {self.finest_level}; give 2 (stride 4) or 3 (stride 8)")
        if self.bottleneck < 0:
            raise ConfigError(f"a bottleneck of {self.bottleneck} channels cannot be; give 0 for none, or such as 3")
