"""Faster, Mask and Keypoint R-CNN with a feature pyramid on our ResNets; everything behind the ResNet is torchvision's.

Source: Ren et al. 2015, Lin et al. 2017 (FPN), He et al. 2017, in torchvision's form; parameter names are those of its
published checkpoints. With a bottleneck, layer1 of the ResNet is a `StudentLayer1` (Matsubara and Levorato 2020).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from .operators import load_operators
from .pixels import IMAGE_MEAN, IMAGE_STD
from .rcnn_config import COARSEST_LEVEL, MAX_DETECTIONS, SCORE_FLOOR, RcnnConfig
from .resnet import FrozenBatchNorm2d, ResNet
from .slimmable_bottleneck import slim_bottleneck

load_operators()

from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead  # noqa: E402
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN  # noqa: E402
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor  # noqa: E402
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor  # noqa: E402
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool  # noqa: E402

_POOLED = 7
"""Side of what the box head reads, cells."""
_FIRST_LEVEL = 2
"""That of layer1, whose stride is 2 to this power."""


class RcnnBackbone(nn.Module):
    """The ResNet and the pyramid on its layers, on all four or on the last three."""

    def __init__(self, config: RcnnConfig) -> None:
        super().__init__()
        self.body = ResNet(config.depth, width=config.width, norm=config.norm, bottleneck=config.bottleneck)
        self._num_skipped = config.finest_level - _FIRST_LEVEL
        channels = list(self.body.num_channels[self._num_skipped :])
        self.fpn = FeaturePyramidNetwork(channels, config.fpn, extra_blocks=LastLevelMaxPool())
        self.out_channels = config.fpn

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images float [B, 3, H, W] to the levels "0", "1", ..., "pool", float [B, fpn, h, w], finest first."""
        return self.pyramid(self.body.stages(images))

    def pyramid(self, layers: Sequence[Tensor]) -> dict[str, Tensor]:
        """What layer1 to layer4 give to the levels."""
        used = layers[self._num_skipped :]
        return self.fpn(OrderedDict((str(level), x) for level, x in enumerate(used)))  # type: ignore[no-any-return]


class Rcnn(GeneralizedRCNN):  # type: ignore[misc]
    """The detector, randomly initialised. `forward` is torchvision's, for training and as a reference; what a bundle computes
    is in `rcnn_tail.py`, and the cuts in `rcnn_cut.py`."""

    def __init__(self, config: RcnnConfig) -> None:
        backbone = RcnnBackbone(config)
        sizes = tuple((config.anchor * 2**level,) for level in range(COARSEST_LEVEL + 1 - config.finest_level))
        arguments = {
            "min_size": config.short_side,
            "max_size": config.max_long_side,
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            "box_head": TwoMLPHead(config.fpn * _POOLED**2, config.box_head),
            "box_predictor": FastRCNNPredictor(config.box_head, config.num_classes),
            "box_score_thresh": SCORE_FLOOR,
            "box_detections_per_img": MAX_DETECTIONS,
            "rpn_pre_nms_top_n_train": config.num_proposals,
            "rpn_post_nms_top_n_train": config.num_proposals,
            "rpn_pre_nms_top_n_test": config.num_proposals,
            "rpn_post_nms_top_n_test": config.num_proposals,
        }
        parts: GeneralizedRCNN
        if config.kind == "mask":
            parts = MaskRCNN(
                backbone,
                mask_head=MaskRCNNHeads(config.fpn, (config.fpn,) * 4, 1),
                mask_predictor=MaskRCNNPredictor(config.fpn, config.fpn, config.num_classes),
                **arguments,
            )
        elif config.kind == "keypoint":
            parts = KeypointRCNN(
                backbone,
                num_keypoints=None,
                keypoint_head=KeypointRCNNHeads(config.fpn, (2 * config.fpn,) * 8),
                keypoint_predictor=KeypointRCNNPredictor(2 * config.fpn, config.num_keypoints),
                **arguments,
            )
        else:
            parts = FasterRCNN(backbone, **arguments)
        super().__init__(parts.backbone, parts.rpn, parts.roi_heads, parts.transform)
        self.config = config
        self.set_norm_eps(config.norm_eps)
        if config.widths:
            slim_bottleneck(self, config.widths, computation=config.configurable == "computation")

    def set_norm_eps(self, eps: float) -> None:
        """Change `RcnnConfig.norm_eps` afterwards, once it is known which weights are loaded."""
        for module in self.backbone.body.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = eps
        self.config = replace(self.config, norm_eps=eps)
