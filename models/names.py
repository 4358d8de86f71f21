"""The detectors that have a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..pipeline.errors import ConfigError
from .coco_classes import COCO_CLASSES
from .detector import Config, num_labels
from .detr import BottleneckAt, DetrConfig
from .efficientdet_config import EFFICIENTDETS, EfficientDetConfig, efficientdet_config
from .rcnn_config import RcnnConfig, RcnnKind
from .resnet import DEPTHS

DETECTORS = {
    "detr-resnet-18": DetrConfig(depth=18),
    "detr-resnet-34": DetrConfig(depth=34),
    "detr-resnet-50": DetrConfig(depth=50),
    "detr-resnet-101": DetrConfig(depth=101),
    "detr-resnet-50-dc5": DetrConfig(depth=50, dilation=True),
    "detr-resnet-101-dc5": DetrConfig(depth=101, dilation=True),
}
_PEOPLE = ("background", "person")
_KINDS: tuple[RcnnKind, ...] = ("faster", "mask", "keypoint")
RCNNS = {
    f"{kind}-rcnn-resnet{depth}": RcnnConfig(
        kind, depth, num_classes=len(_PEOPLE) if kind == "keypoint" else len(COCO_CLASSES)
    )
    for kind in _KINDS
    for depth in DEPTHS
}
SPLITS = ("input", "l0", "p3", "bottleneck", "c5", "projection", "memory")
"""Every place where some detector may be split; `input` is before the whole of it."""
RCNN_OVERRIDES = (
    "num_classes",
    "num_keypoints",
    "width",
    "fpn",
    "box_head",
    "anchor",
    "short_side",
    "max_long_side",
    "num_proposals",
    "finest_level",
)
OVERRIDES = ("num_classes", "num_queries", "encoder_layers", "decoder_layers", "d_model", "heads", "ffn", "width")
"""What of a named detector may be chosen otherwise."""


def config_of(detector: str, overrides: Mapping[str, int] | None = None) -> DetrConfig:
    """The configuration of a named detector with some of `OVERRIDES` replaced. Raises ConfigError for an unknown name."""
    if detector not in DETECTORS:
        raise ConfigError(f"there is no detector {detector!r}; choose among {', '.join(DETECTORS)}")
    chosen: dict[str, Any] = dict(overrides or {})
    unknown = [name for name in chosen if name not in OVERRIDES]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} cannot be chosen for {detector}; only {', '.join(OVERRIDES)} can")
    return dataclasses.replace(DETECTORS[detector], **chosen)


def model_config(
    detector: str,
    overrides: Mapping[str, int] | None = None,
    *,
    bottleneck: int = 0,
    split: str = "",
    widths: Sequence[float] = (),
    computation: bool = False,
) -> Config:
    """The configuration of any named detector, with a bottleneck of so many channels (0: none).

    It lies in layer1, behind a DETR's projection where the split is "projection", behind an EfficientDet's P3. With `widths`,
    in (0, 1] and ending with 1, it is slimmable, with `computation` all of its encoder. Raises ConfigError for an unknown
    name, override or split, a split that this detector cannot have, or widths that cannot be.
    """
    if computation and not widths:
        raise ConfigError("--computation says what the widths slim; give --widths too, such as 0.25,0.5,1")
    choices: dict[str, Any] = {
        "bottleneck": bottleneck,
        "widths": tuple(widths),
        "configurable": "computation" if computation else "bandwidth",
    }
    if split and split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}; choose among {', '.join(SPLITS)}")
    if bottleneck < 0:
        raise ConfigError(f"a bottleneck of {bottleneck} channels cannot be; give 0 for none, or such as 3")
    if split == "bottleneck" and not bottleneck:
        raise ConfigError("a split at the bottleneck needs its channels; give --bottleneck, such as 3")
    if detector in EFFICIENTDETS:
        if split not in ("", "input", "p3", "bottleneck"):
            raise ConfigError(f"{detector} branches behind P3, so it has no split {split!r}; choose p3 or bottleneck")
        unknown = [name for name in overrides or {} if name != "num_classes"]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} cannot be chosen for {detector}; only num_classes can")
        return efficientdet_config(detector, {**choices, **(overrides or {})})
    if split == "p3":
        raise ConfigError(f"{detector} has no split 'p3'; only an EfficientDet has")
    if detector in RCNNS:
        if split in ("c5", "projection", "memory"):
            raise ConfigError(
                f"{detector} branches behind layer1, so it has no split {split!r}; choose l0 or bottleneck"
            )
        chosen: dict[str, Any] = dict(overrides or {})
        unknown = [name for name in chosen if name not in RCNN_OVERRIDES]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} cannot be chosen for {detector}; only {', '.join(RCNN_OVERRIDES)} can")
        return dataclasses.replace(RCNNS[detector], **choices, **chosen)
    if detector not in DETECTORS:
        every = (*DETECTORS, *RCNNS, *EFFICIENTDETS)
        raise ConfigError(f"there is no detector {detector!r}; choose among {', '.join(every)}")
    place: BottleneckAt = "projection" if split == "projection" else "layer1"
    return dataclasses.replace(config_of(detector, overrides), bottleneck_at=place, **choices)


def cuts_for(config: Config, split: str = "") -> tuple[str, ...]:
    """What `split` cuts in such a detector: none for "input", one otherwise; the default is the bottleneck where there is one,
    else DETR's projection, an R-CNN's l0, an EfficientDet's P3.

    A slimmable one is cut before and behind its compressor and decompressor as well, so that the rest is there once for all
    widths.
    """
    if split == "input":
        return ()
    is_efficientdet = isinstance(config, EfficientDetConfig)
    at_projection = isinstance(config, DetrConfig) and config.bottleneck_at == "projection"
    if config.bottleneck and (not split or split == "bottleneck" or (split == "projection" and at_projection)):
        if not config.widths:
            return ("bottleneck",)
        before = "p3" if is_efficientdet else ("projection" if at_projection else "l0")
        # There the encoder follows the width too, so that nothing before the bottleneck is shared.
        slims_before = isinstance(config, EfficientDetConfig) and (
            config.configurable == "computation" or config.compressor == "restorer"
        )
        return ("bottleneck", "restored") if slims_before else (before, "bottleneck", "restored")
    return (split or ("projection" if isinstance(config, DetrConfig) else "p3" if is_efficientdet else "l0"),)


def default_classes(config: Config) -> tuple[str, ...]:
    """The names of a detector's classes where nobody gives any: those of `class_names`, or people only for keypoints."""
    if isinstance(config, RcnnConfig) and config.kind == "keypoint" and config.num_classes == len(_PEOPLE):
        return _PEOPLE
    return class_names(num_labels(config))


def class_names(num_classes: int) -> tuple[str, ...]:
    """COCO's names where there are as many classes as COCO ids, else "class 0", "class 1", ..."""
    if num_classes == len(COCO_CLASSES):
        return COCO_CLASSES
    return tuple(f"class {label}" for label in range(num_classes))
