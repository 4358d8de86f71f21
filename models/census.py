"""What each module of a detector holds, costs and gives, counted without computing anything (on torch's meta device).

Conventions. *Parameters*: as in `counts.py`; frozen batch normalisation has none, a bottleneck's is trained and counts.
*MACs*: as in `counts.py`; an R-CNN's box head sees all its proposals, 1000 as published, its mask or keypoint head all 100
detections. *Elements*: what would have to travel if the detector were cut behind the module, every branch that is still needed
included, for one image; `relative` to the 3 x H x W elements of the network's input, H and W before padding (figure 2 of
Matsubara and Levorato 2020 has 800 x 800). Source of the tables: figures 2 to 4 there, table IV of Matsubara et al. 2020 (GHND).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .bottleneck import StudentLayer1
from .counts import num_parameters
from .detector import Config, build_detector, preprocess_of
from .detr import Detr, DetrConfig
from .efficientdet_config import EfficientDetConfig
from .rcnn_config import MAX_DETECTIONS
from .resnet import ResNet
from .slimmable import sliced

WIRE_BYTES = {"fp32": 4, "fp16": 2, "uint8": 1}
"""Wire type -> bytes an element; uint8 adds a scale and a zero point, 5 bytes, to each tensor."""


@dataclass(frozen=True)
class ModuleRow:
    """One module."""

    name: str
    cut: str | None
    """The cut behind it where the detector can be cut there with one tensor."""
    shape: tuple[int, ...]
    """Of its own output, without the batch."""
    num_elements: int
    """What travels if cut here."""
    num_parameters: int
    num_macs: int


@dataclass(frozen=True)
class Census:
    """The modules of a detector in order, for one image size."""

    size: tuple[int, int]
    """Height and width of the network's input before padding, pixels."""
    rows: tuple[ModuleRow, ...]

    def relative(self, row: ModuleRow) -> float:
        """Elements that travel behind `row`, in parts of the input's 3 x H x W."""
        return row.num_elements / (3 * self.size[0] * self.size[1])

    def up_to(self, row: ModuleRow) -> tuple[int, int]:
        """Parameters and MACs of everything up to `row`, itself included: what the head would cost."""
        rows = self.rows[: self.rows.index(row) + 1]
        return sum(each.num_parameters for each in rows), sum(each.num_macs for each in rows)

    def row_of(self, cut: str) -> ModuleRow:
        """The row behind which `cut` lies."""
        return next(row for row in self.rows if row.cut == cut)


def census(config: Config, size: tuple[int, int] = (800, 1066), width: float = 1.0) -> Census:
    """Count a detector for images of `size` pixels, as they come out of the resize; a slimmable one at `width`.

    Raises ConfigError: it has no such width, or is an EfficientDet of another size.
    """
    if isinstance(config, EfficientDetConfig):
        from .efficientdet_census import efficientdet_census

        preprocess_of(config, size)
        return efficientdet_census(config, width)
    with torch.device("meta"):
        model = sliced(build_detector(config).eval().requires_grad_(False), width)
        images = torch.zeros(1, 3, *preprocess_of(config, size).padded(size))
        counter = _Counter(model)
        if isinstance(model, Detr):
            _count_detr(counter, model, config, images)
        else:
            _count_rcnn(counter, model, images)
    return Census(size, tuple(counter.rows))


class _Counter:
    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.rows: list[ModuleRow] = []

    def add(
        self,
        name: str,
        compute: Callable[[], Tensor],
        prefixes: Sequence[str],
        *,
        cut: str | None = None,
        elements: Callable[[Tensor], int] = Tensor.numel,
    ) -> Tensor:
        with FlopCounterMode(display=False) as flops:
            x = compute()
        parameters = num_parameters(self._model, tuple(prefixes)).total if prefixes else 0
        self.rows.append(
            ModuleRow(name, cut, tuple(x.shape[1:]), elements(x), parameters, flops.get_total_flops() // 2)
        )
        return x

    def resnet(self, body: ResNet, prefix: str, images: Tensor, *, branches: int, last_cut: str | None) -> list[Tensor]:
        """The ResNet's modules; every layer's output from number `branches` on, 0 for none, is needed later on. Gives those of
        layer1 to layer4."""
        c1 = self.add("conv1", lambda: F.relu(body.bn1(body.conv1(images))), (f"{prefix}conv1.", f"{prefix}bn1."))
        l0 = self.add("maxpool", lambda: F.max_pool2d(c1, 3, 2, padding=1), (), cut="l0")
        layer1 = body.layer1
        if isinstance(layer1, StudentLayer1):
            wire = self.add(
                "layer1.encoder", lambda: layer1.encoder(l0), (f"{prefix}layer1.encoder.",), cut="bottleneck"
            )
            c2 = self.add("layer1.decoder", lambda: layer1.decoder(wire), (f"{prefix}layer1.decoder.",), cut="restored")
        else:
            c2 = self.add("layer1", lambda: layer1(l0), (f"{prefix}layer1.",))
        outputs = [c2]
        for number, layer in ((2, body.layer2), (3, body.layer3), (4, body.layer4)):
            before = sum(x.numel() for x in outputs[branches - 1 :]) if branches else 0
            outputs.append(
                self.add(
                    f"layer{number}",
                    lambda layer=layer: layer(outputs[-1]),  # type: ignore[misc]
                    (f"{prefix}layer{number}.",),
                    cut=last_cut if number == 4 else None,
                    elements=lambda x, before=before: before + x.numel(),  # type: ignore[misc]
                )
            )
        return outputs


def _count_detr(counter: _Counter, detr: Detr, config: Config, images: Tensor) -> None:
    assert isinstance(config, DetrConfig)
    c5 = counter.resnet(detr.backbone, "backbone.", images, branches=0, last_cut="c5")[-1]
    features = counter.add("projection", lambda: detr.input_proj(c5), ("input_proj.",), cut="projection")
    if detr.bottleneck is not None:
        squeeze, whole = detr.bottleneck, features
        wire = counter.add(
            "bottleneck.encoder", lambda: squeeze.encoder(whole), ("bottleneck.encoder.",), cut="bottleneck"
        )
        features = counter.add(
            "bottleneck.decoder", lambda: squeeze.decoder(wire), ("bottleneck.decoder.",), cut="restored"
        )
    size = (images.shape[2], images.shape[3])
    cells = detr.cells(features, torch.tensor([size]), size)
    memory = counter.add("encoder", lambda: detr.encode(features, cells), ("transformer.encoder.",), cut="memory")
    state = counter.add("decoder", lambda: detr.decode(memory, cells)[-1], ("transformer.decoder.", "query_embed."))
    counter.add("heads", lambda: torch.cat(list(detr.predict(state)), dim=2), ("class_embed.", "bbox_embed."))


def _count_rcnn(counter: _Counter, model: nn.Module, images: Tensor) -> None:
    from .rcnn import Rcnn

    assert isinstance(model, Rcnn)
    first = model.config.finest_level - 1
    layers = counter.resnet(model.backbone.body, "backbone.body.", images, branches=first, last_cut=None)
    levels: list[Tensor] = []

    def pyramid() -> Tensor:
        levels.extend(model.backbone.pyramid(layers).values())
        return levels[0]

    all_levels = counter.add(
        "fpn", pyramid, ("backbone.fpn.",), elements=lambda _: sum(level.numel() for level in levels)
    )
    pooled_levels = sum(level.numel() for level in levels[:-1])

    def proposals() -> Tensor:
        model.rpn.head(levels)
        return torch.zeros(1, model.config.num_proposals, 4)

    # The coarsest level is for proposals only; the heads read the others.
    counter.add("rpn", proposals, ("rpn.",), elements=lambda x: pooled_levels + x.numel())
    heads, channels = model.roi_heads, all_levels.shape[1]

    def regions() -> Tensor:
        heads.box_predictor(heads.box_head(torch.zeros(model.config.num_proposals, channels, 7, 7)))
        outputs = [torch.zeros(1, MAX_DETECTIONS, 6)]
        small = torch.zeros(MAX_DETECTIONS, channels, 14, 14)
        if model.config.kind == "mask":
            masks = heads.mask_predictor(heads.mask_head(small))
            outputs.append(torch.zeros(1, MAX_DETECTIONS, prod(masks.shape[2:])))
        elif model.config.kind == "keypoint":
            heatmaps = heads.keypoint_predictor(heads.keypoint_head(small))
            outputs.append(torch.zeros(1, MAX_DETECTIONS, prod(heatmaps.shape[1:])))
        return torch.cat(outputs, dim=2)

    counter.add("roi_heads", regions, ("roi_heads.",))
