"""The places of a detector whose features are compared, and what it gives there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ..models.detr import Detr
from ..models.efficientdet import EfficientDet
from ..models.resnet import ResNet

Place = Literal["layer1", "layer2", "layer3", "layer4", "projection", "memory", "p3", "p4", "p5"]
"""What the four layers of a ResNet give; what a DETR's encoder reads, and gives; the levels of an EfficientDet's backbone."""
LAYERS: tuple[Place, ...] = ("layer1", "layer2", "layer3", "layer4")
LEVELS: tuple[Place, ...] = ("p3", "p4", "p5")

Begin = Literal["images", "stem", "projection", "p3"]
"""Behind what a computation begins: normalised images; a ResNet's stem; a DETR's 1x1 projection, or an EfficientDet's encoder,
before any bottleneck there."""

_BODY = "backbone.body"


def advance(model: nn.Module, images: Tensor, end: Begin) -> Tensor:
    """Normalised images float [B, 3, H, W] to what `model` gives at `end`."""
    if end == "images":
        return images
    if end == "stem":
        return body_of(model).stem(images)
    if end == "p3":
        assert isinstance(model, EfficientDet)
        return model.encode(images)
    assert isinstance(model, Detr)
    return model.input_proj(model.backbone(images))  # type: ignore[no-any-return]


def features(
    model: nn.Module,
    x: Tensor,
    valid_size: Tensor,
    pixel_size: tuple[int, int],
    places: Sequence[Place],
    *,
    begin: Begin = "images",
) -> dict[Place, Tensor]:
    """What `model` gives at `places`; nothing behind the last of them is computed.

    `x` is what lies at `begin`. `pixel_size` is H, W of the images and `valid_size` int64 [B, 2] the part that is no padding.
    """
    if isinstance(model, EfficientDet):
        p3 = model.decompressor(model.compressor(x if begin == "p3" else model.encode(x)))
        if set(places) == {"p3"}:
            return {"p3": p3}
        levels = zip(LEVELS, model.pyramid(p3), strict=True)
        return {place: level for place, level in levels if place in places}
    found: dict[Place, Tensor] = {}
    if begin != "projection":
        body = body_of(model)
        if begin == "images":
            x = body.stem(x)
        for place in LAYERS:
            x = body.get_submodule(place)(x)
            if place in places:
                found[place] = x
            if len(found) == len(places):
                return found
    assert isinstance(model, Detr)
    if begin != "projection":
        x = model.input_proj(x)
    if model.bottleneck is not None:
        x = model.bottleneck(x)
    if "projection" in places:
        found["projection"] = x
    if "memory" in places:
        found["memory"] = model.encode(x, model.cells(x, valid_size, pixel_size))
    return found


def body_of(model: nn.Module) -> ResNet:
    """The ResNet of a `Detr` or an `Rcnn`."""
    body = model.backbone if isinstance(model, Detr) else model.get_submodule(_BODY)
    assert isinstance(body, ResNet)
    return body


def body_name(model: nn.Module) -> str:
    """Where that ResNet is in the model."""
    return "backbone" if isinstance(model, Detr) else _BODY
