"""Random weights for an R-CNN that behave like trained ones: see `random_init.py`.

Freshly initialised, its region proposals would all tie and no score would reach the floor.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .golden import picture
from .pixels import normalise
from .random_init import adopting, randomise_norms
from .rcnn import Rcnn
from .rcnn_config import SCORE_FLOOR, RcnnConfig
from .rcnn_tail import pool_regions, propose
from .slimmable import set_width

_PICTURE_SIZE = (192, 256)
_NUM_PICTURES = 2
_OBJECTNESS_STD = 2.0
_PROPOSAL_CODE_STD = 0.2
_LOGIT_STD = 2.5
_BOX_CODE_STD = 1.0
_MASK_STD = 2.0
_NUM_PROPOSALS = 300
"""Best proposals of a picture that are looked at."""
_CANDIDATES = 5
"""Those of them that some class scores above the floor."""


def random_rcnn(config: RcnnConfig, seed: int) -> Rcnn:
    """An untrained R-CNN, the same for the same seed, in evaluation mode."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(np.stack([picture(_PICTURE_SIZE, rng) for _ in range(_NUM_PICTURES)]))
    limits = torch.tensor([*_PICTURE_SIZE[::-1]] * 2, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        rcnn = Rcnn(config)
        rcnn.eval()
        hooks = adopting(rcnn)
        hooks += randomise_norms(rcnn.backbone.body)
        images = normalise(pixels, torch.tensor([_PICTURE_SIZE]).expand(_NUM_PICTURES, 2))
        for width in config.widths or (1.0,):  # the last is 1
            set_width(rcnn, width)
            layers = rcnn.backbone.body.stages(images)
        for hook in hooks:
            hook.remove()
        fpn = rcnn.backbone.fpn
        for level, x in enumerate(rcnn.backbone.pyramid(layers).values()):
            if level < len(fpn.layer_blocks):
                fpn.layer_blocks[level][0].weight.div_(x.std())
        levels = list(rcnn.backbone.pyramid(layers).values())
        head = rcnn.rpn.head
        for module in head.conv.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        for last, std, output in ((head.cls_logits, _OBJECTNESS_STD, 0), (head.bbox_pred, _PROPOSAL_CODE_STD, 1)):
            _spread(last, torch.cat([x.flatten(2) for x in head(levels)[output]], dim=2), std)
        pictures = [[level[index : index + 1] for level in levels] for index in range(_NUM_PICTURES)]
        proposals = [propose(rcnn, each, limits)[:_NUM_PROPOSALS] for each in pictures]
        heads = rcnn.roi_heads
        regions = [pool_regions(each, boxes, 7) for each, boxes in zip(pictures, proposals, strict=True)]
        features = heads.box_head(torch.cat(regions))
        predictor = heads.box_predictor
        _spread(predictor.cls_score, predictor.cls_score(features), _LOGIT_STD)
        _spread(predictor.bbox_pred, predictor.bbox_pred(features), _BOX_CODE_STD)
        predictor.cls_score.bias[0] += _background_bias(predictor.cls_score(features), _CANDIDATES * _NUM_PICTURES)
        some = torch.cat([pool_regions(each, boxes[:20], 14) for each, boxes in zip(pictures, proposals, strict=True)])
        if config.kind == "mask":
            mask_features = heads.mask_head(some)
            _spread(heads.mask_predictor.mask_fcn_logits, heads.mask_predictor(mask_features), _MASK_STD)
        elif config.kind == "keypoint":
            keypoint_features = heads.keypoint_head(some)
            _spread(heads.keypoint_predictor.kps_score_lowres, heads.keypoint_predictor(keypoint_features), _MASK_STD)
    return rcnn


def _spread(layer: nn.Module, outputs: Tensor, std: float) -> None:
    """Scale and shift `layer` so that its `outputs` [B, C, ...] have mean 0 in each channel and on average this deviation."""
    over = (0, *range(2, outputs.dim()))
    gain = std / outputs.std(over).mean()
    layer.weight.mul_(gain)  # type: ignore[operator]
    layer.bias.copy_(-gain * (outputs.mean(over) - layer.bias))  # type: ignore[operator]


def _background_bias(logits: Tensor, wanted: int) -> float:
    """What the background's logit needs so that `wanted` of the proposals [N, classes] are above the floor in some class."""
    low, high = -20.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        moved = logits.clone()
        moved[:, 0] += middle
        count = int((moved.softmax(1)[:, 1:] > SCORE_FLOOR).any(dim=1).sum())
        low, high = (middle, high) if count > wanted else (low, middle)
    return high
