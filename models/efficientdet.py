"""EfficientDet D0 to D2, split at P3, with or without a slimmable compressor there; all but that is effdet's and timm's.

Source: Tan et al. 2020 (EfficientDet), Tan and Le 2019 (EfficientNet), in the form of effdet's ports of the official weights
(`tf_efficientdet_d*`: TensorFlow's padding). The split lies after EfficientNet's blocks 0-7 (0-4 for D0), before the third
depthwise convolution with stride 2, which is where the pyramid branches off (Assine et al. 2021, section 3):

    images -> encoder -> P3 -> compressor -> wire -> decompressor -> P3' -> blocks 8- -> P4, P5 -> BiFPN -> class and box nets

Parameter names are effdet's, and `compressor.*` and `decompressor.*`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..pipeline.errors import UsageError
from .compressor import build_compressor, slim_compressor
from .efficientdet_config import EfficientDetConfig
from .operators import load_operators
from .slimmable_block import slim_block

NUM_ENCODER_STAGES = 3
"""Stages of EfficientNet up to P3."""
_P4_STAGES = (3, 4)
_P5_STAGES = (5, 6)


class EfficientDetError(UsageError):
    """effdet is missing."""


class EfficientDet(nn.Module):
    """The detector, randomly initialised as effdet does. Raises EfficientDetError where effdet is not installed."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        self.config = config
        net = _effdet(config)
        self.backbone: Any = net.backbone
        self.fpn: Any = net.fpn
        self.class_net: Any = net.class_net
        self.box_net: Any = net.box_net
        self.compressor: nn.Module = nn.Identity()
        self.decompressor: nn.Module = nn.Identity()
        if config.bottleneck:
            self._squeeze()

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images float [B, 3, H, W] of `config.size` to logits [B, 9 * num_classes, h, w] and box codes
        [B, 36, h, w] of P3 to P7."""
        return self.predict(self.pyramid(self.decompressor(self.compressor(self.encode(images)))))

    def encode(self, images: Tensor) -> Tensor:
        """Normalised images float [B, 3, H, W] to P3 [B, C, H / 8, W / 8]."""
        x = self.backbone.bn1(self.backbone.conv_stem(images))
        for stage in self.backbone.blocks[:NUM_ENCODER_STAGES]:
            x = stage(x)
        return x  # type: ignore[no-any-return]

    def pyramid(self, p3: Tensor) -> list[Tensor]:
        """P3 to the backbone's levels P3, P4, P5: what the features of teacher and student are compared at."""
        levels = [p3]
        for stages in (_P4_STAGES, _P5_STAGES):
            x = levels[-1]
            for stage in stages:
                x = self.backbone.blocks[stage](x)
            levels.append(x)
        return levels

    def predict(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """P3, P4, P5 to logits and box codes of P3 to P7."""
        merged = self.fpn(levels)
        return self.class_net(merged), self.box_net(merged)

    def reset_encoder(self) -> None:
        """Fresh weights up to P3, instead of pretrained ones (Assine et al. 2021, table 3)."""
        fresh = EfficientDet(self.config).state_dict()
        stages = tuple(f"backbone.blocks.{stage}." for stage in range(NUM_ENCODER_STAGES))
        prefixes = ("backbone.conv_stem.", "backbone.bn1.", *stages)
        self.load_state_dict({name: fresh[name] for name in fresh if name.startswith(prefixes)}, strict=False)

    def _squeeze(self) -> None:
        config = self.config
        self.compressor, self.decompressor = build_compressor(config.compressor, config.p3_channels, config.bottleneck)
        encoder = self.backbone.blocks[:NUM_ENCODER_STAGES]
        last = encoder[-1][-1]
        if config.compressor == "restorer":
            last.has_skip = False
            last.conv_pwl = nn.Conv2d(last.conv_pwl.in_channels, config.bottleneck, 1, bias=False)
            nn.init.kaiming_normal_(last.conv_pwl.weight, mode="fan_out", nonlinearity="relu")
            last.bn3 = type(last.bn3)(config.bottleneck, eps=last.bn3.eps, momentum=last.bn3.momentum, apply_act=False)
        if not config.widths:
            return
        computation = config.configurable == "computation"
        if computation:
            blocks = [
                block for stage in encoder[1:] for block in stage
            ]  # the first stride 2 is where the second stage begins
            for index, block in enumerate(blocks):
                slim_block(block, config.widths, slim_in=index > 0, slim_inside=True, slim_out=True)
        elif config.compressor == "restorer":
            slim_block(last, config.widths, slim_out=True)
        slim_compressor(self.compressor, self.decompressor, config.widths, computation=computation)


def _effdet(config: EfficientDetConfig) -> Any:
    """effdet's own detector, freshly initialised."""
    load_operators()
    try:
        import effdet
    except ImportError as error:
        raise EfficientDetError(
            f"EfficientDet needs effdet ({error}); add it with: pip install 'splitrail[efficientdet]'"
        ) from error
    settings = effdet.get_efficientdet_config(f"tf_efficientdet_d{config.level}")
    settings.image_size = config.size
    settings.num_classes = config.num_classes
    settings.backbone_args.drop_path_rate = config.drop_path
    return effdet.EfficientDet(settings, pretrained_backbone=False)
