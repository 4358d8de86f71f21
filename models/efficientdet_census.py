"""What each part of an EfficientDet holds and costs, by width, counted on torch's meta device.

Two conventions. *MACs*, as for every other detector here: multiplications with their additions in convolutions; no biases, no
normalisations. *Published operations*: those plus one for each bias added and two for each normalised value, which is how Assine
et al. 2021 counted with ptflops. Their tool also counted a bias that is not there; here only real ones count.
Parameters are all of them, normalisation included, since it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .census import Census, ModuleRow
from .efficientdet import EfficientDet
from .efficientdet_config import EfficientDetConfig
from .slimmable import WIDTHS, Configurable, active_channels, check_widths, sliced

_PARTS = ("encoder", "compressor", "decompressor", "blocks", "bifpn", "class_net", "box_net")


@dataclass(frozen=True)
class Cost:
    """Of one part for one image."""

    num_parameters: int
    num_macs: int
    num_published: int
    """In the convention of Assine et al. 2021."""
    shape: tuple[int, ...]
    """Of its output (the first, where there are several), without the batch."""


def efficientdet_costs(config: EfficientDetConfig, width: float = 1.0) -> dict[str, Cost]:
    """Part -> cost at `width`: encoder, compressor, decompressor (where there are), blocks, bifpn, class_net, box_net.

    Raises ConfigError for a width that `config` has not.
    """
    return _costs(_on_meta(config), width)


def _on_meta(config: EfficientDetConfig) -> EfficientDet:
    with torch.device("meta"):
        return EfficientDet(config).eval().requires_grad_(False)


def _costs(model: EfficientDet, width: float, *, head_only: bool = False) -> dict[str, Cost]:
    config = model.config
    with torch.device("meta"):
        fixed: Any = sliced(model, width) if config.widths else model
        counter = _Counter()
        encoder = (fixed.backbone.conv_stem, fixed.backbone.bn1, *fixed.backbone.blocks[:3])
        x = counter.add("encoder", encoder, fixed.encode, torch.zeros(1, 3, *config.size))
        if config.bottleneck:
            if config.compressor != "restorer":
                x = counter.add("compressor", (fixed.compressor,), fixed.compressor, x)
            if head_only:
                return counter.costs
            x = counter.add("decompressor", (fixed.decompressor,), fixed.decompressor, x)
        levels = counter.add("blocks", tuple(fixed.backbone.blocks[3:]), fixed.pyramid, x)
        merged = counter.add("bifpn", (fixed.fpn,), fixed.fpn, levels)
        counter.add("class_net", (fixed.class_net,), fixed.class_net, merged)
        counter.add("box_net", (fixed.box_net,), fixed.box_net, merged)
    return counter.costs


def efficientdet_census(config: EfficientDetConfig, width: float = 1.0) -> Census:
    """The same as rows, with what would travel behind each: the encoder's and the compressor's output, then every level."""
    costs = efficientdet_costs(config, width)
    wire = "compressor" if "compressor" in costs else "encoder"
    height, side = config.size
    cells = [(height >> level) * (side >> level) for level in range(3, 8)]
    p3_to_p5 = (config.p3_channels, *_backbone_channels(config))
    travelling = {
        "blocks": sum(channels * count for channels, count in zip(p3_to_p5, cells, strict=False)),
        "bifpn": costs["bifpn"].shape[0] * sum(cells),
        "class_net": costs["bifpn"].shape[0] * sum(cells) + 9 * config.num_classes * sum(cells),
        "box_net": 9 * (config.num_classes + 4) * sum(cells),
    }
    cuts = {"encoder": "p3", "decompressor": "restored"}
    rows = []
    for part in (part for part in _PARTS if part in costs):
        cost = costs[part]
        elements = prod(cost.shape)
        cut = "bottleneck" if part == wire and config.bottleneck else cuts.get(part)
        rows.append(
            ModuleRow(part, cut, cost.shape, travelling.get(part, elements), cost.num_parameters, cost.num_macs)
        )
    return Census(config.size, tuple(rows))


def costs_by_width(config: EfficientDetConfig) -> list[dict[str, Any]]:
    """For every width: channels and uint8 bytes of the wire, parameters and MACs of the head, configurable either way."""
    widths = check_widths(config.widths or WIDTHS)
    kinds: tuple[Configurable, ...] = ("bandwidth", "computation")
    models = {kind: _on_meta(replace(config, widths=widths, configurable=kind)) for kind in kinds}
    rows = []
    for width in widths:
        row: dict[str, Any] = {"width": width, "channels": active_channels(config.bottleneck, width)}
        for kind, model in models.items():
            head = list(_costs(model, width, head_only=True).values())
            row["wire_elements"] = prod(head[-1].shape)
            row[kind] = {
                "num_parameters": sum(cost.num_parameters for cost in head),
                "num_macs": sum(cost.num_macs for cost in head),
                "num_published": sum(cost.num_published for cost in head),
            }
        rows.append(row)
    return rows


def _backbone_channels(config: EfficientDetConfig) -> tuple[int, int]:
    with torch.device("meta"):
        info = EfficientDet(config).backbone.feature_info.channels()
    return int(info[-2]), int(info[-1])


class _Counter:
    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}

    def add(self, part: str, modules: tuple[nn.Module, ...], compute: Any, x: Any) -> Any:
        counted = {"macs": 0, "published": 0}

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # A transposed convolution multiplies each input value with its filters, an ordinary one gathers for each output.
                places = output.numel() if isinstance(module, nn.Conv2d) else inputs[0].numel()
                macs = places * module.weight[0].numel()
                counted["macs"] += macs
                counted["published"] += macs + (output.numel() if module.bias is not None else 0)
            elif isinstance(module, nn.BatchNorm2d):
                counted["published"] += 2 * output.numel()

        leaves = [leaf for module in modules for leaf in module.modules()]
        hooks = [leaf.register_forward_hook(count) for leaf in leaves]
        result = compute(x)
        for hook in hooks:
            hook.remove()
        first = result if isinstance(result, Tensor) else result[-1 if part == "blocks" else 0]
        parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
        self.costs[part] = Cost(sum(parameters.values()), counted["macs"], counted["published"], tuple(first.shape[1:]))
        return result
