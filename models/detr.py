"""DETR: a ResNet, a transformer, and a fixed set of queries that each become one box or none.

Source: Carion et al. 2020, "End-to-End Object Detection with Transformers". Parameter names are those of the published
checkpoints, but for the backbone, which is `backbone.*` here and `backbone.0.body.*` there.

The model is four parts in a row, and every cut lies between two of them (`cut.py`):

    pixels -> backbone -> c5 -> projection -> features -> encoder -> memory -> decoder -> logits, boxes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pipeline.errors import ConfigError
from .bottleneck import ProjectionBottleneck
from .pixels import normalise
from .position import Cells, cells_of
from .resnet import Norm, ResNet
from .slimmable import Configurable, check_slimmable
from .slimmable_bottleneck import slim_bottleneck
from .transformer import Decoder, Encoder, Transformer

BottleneckAt = Literal["layer1", "projection"]


@dataclass(frozen=True)
class DetrConfig:
    """Every choice in a DETR; the defaults are DETR-R50 as published for COCO."""

    depth: int = 50
    """ResNet-18, 34, 50 or 101."""
    dilation: bool = False
    """DC5: C5 at stride 16."""
    width: int = 64
    """Channels of the ResNet's stem; everything behind it scales with it."""
    num_classes: int = 91
    """Without the no-object class; COCO's ids go up to 90."""
    num_queries: int = 100
    d_model: int = 256
    heads: int = 8
    ffn: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    norm: Norm = "frozen"
    """Is "batch" only while a backbone is trained from scratch."""
    bottleneck: int = 0
    """Channels of a learned bottleneck; 0: none."""
    bottleneck_at: BottleneckAt = "layer1"
    """Inside the backbone's layer1, or behind the projection."""
    widths: tuple[float, ...] = ()
    """Fractions of the bottleneck's active channels that one set of weights serves; none: not slimmable."""
    configurable: Configurable = "bandwidth"
    """bandwidth: only what is next to the wire is slimmed. computation: all of the bottleneck's encoder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", check_slimmable(self.widths, self.configurable, self.bottleneck))
        for name in ("num_classes", "num_queries", "d_model", "heads", "ffn", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"a DETR cannot have {name} = {getattr(self, name)}; give at least 1")
        if self.encoder_layers < 0:
            raise ConfigError(f"a DETR cannot have encoder_layers = {self.encoder_layers}; give 0 or more")
        if self.d_model % 4:
            raise ConfigError(f"d_model = {self.d_model} must be a multiple of 4 (sine and cosine of row and column)")
        if self.d_model % self.heads:
            raise ConfigError(f"d_model = {self.d_model} must be a multiple of heads = {self.heads}")
        if self.bottleneck < 0:
            raise ConfigError(f"a bottleneck of {self.bottleneck} channels cannot be; give 0 for none, or such as 3")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout} must be at least 0 and below 1")


class Predictions(NamedTuple):
    """What the queries say, after one decoder layer."""

    logits: Tensor
    """float [B, Q, num_classes + 1], no-object last."""
    boxes: Tensor
    """float [B, Q, 4] cxcywh in [0, 1], relative to the valid part of each image."""


class BoxHead(nn.Module):
    """Three linear layers with ReLU between; gives cxcywh before the sigmoid."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, 4)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, Q, d] to [B, Q, 4]."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))  # type: ignore[no-any-return]


class Detr(nn.Module):
    """The detector. Randomly initialised as in the paper; `weights.py` loads published ones."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config = config
        d, heads, ffn, dropout = config.d_model, config.heads, config.ffn, config.dropout
        in_layer1 = config.bottleneck if config.bottleneck_at == "layer1" else 0
        self.backbone = ResNet(
            config.depth, width=config.width, dilation=config.dilation, norm=config.norm, bottleneck=in_layer1
        )
        self.input_proj = nn.Conv2d(self.backbone.num_channels[3], d, 1)
        self.bottleneck = ProjectionBottleneck(config.bottleneck, d) if config.bottleneck and not in_layer1 else None
        self.transformer = Transformer(
            Encoder(config.encoder_layers, d, heads, ffn, dropout),
            Decoder(config.decoder_layers, d, heads, ffn, dropout),
        )
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.query_embed = nn.Embedding(config.num_queries, d)
        self.class_embed = nn.Linear(d, config.num_classes + 1)
        self.bbox_embed = BoxHead(d)
        if config.widths:
            slim_bottleneck(self, config.widths, computation=config.configurable == "computation")

    def forward(self, images: Tensor, valid_size: Tensor | None = None) -> list[Predictions]:
        """Predictions after every decoder layer, the last one being the detector's; the others are for auxiliary losses.

        `images` float [B, 3, H, W], normalised, zero where padded at the bottom and right; `valid_size` int64 [B, 2], height
        and width of what is not padding, None where nothing is.
        """
        pixel_size = (images.shape[2], images.shape[3])
        if valid_size is None:
            valid_size = torch.tensor([pixel_size], device=images.device).expand(len(images), 2)
        features = self.project(self.backbone(images))
        cells = self.cells(features, valid_size, pixel_size)
        return [self.predict(state) for state in self.decode(self.encode(features, cells), cells)]

    def normalise(self, pixels: Tensor, valid_size: Tensor) -> Tensor:
        """See `pixels.normalise`."""
        return normalise(pixels, valid_size)

    def cells(self, features: Tensor, valid_size: Tensor, pixel_size: tuple[int, int] | None) -> Cells:
        """Mask and positions of `features` (or memory) [B, d, h, w]; see `position.cells_of`."""
        size = (features.shape[2], features.shape[3])
        return cells_of(valid_size, size, pixel_size, self.config.d_model, self.backbone.stride)

    def project(self, c5: Tensor) -> Tensor:
        """C5 to what the encoder reads, float [B, d, h, w]; through the bottleneck where there is one behind the projection."""
        features: Tensor = self.input_proj(c5)
        return features if self.bottleneck is None else self.bottleneck(features)

    def encode(self, features: Tensor, cells: Cells) -> Tensor:
        """Projected features float [B, d, h, w] to the encoder's memory of the same shape."""
        memory = self.transformer.encoder(self._rows(features), cells.mask, cells.positions)
        return memory.transpose(1, 2).reshape(features.shape)  # type: ignore[no-any-return]

    def decode(self, memory: Tensor, cells: Cells) -> list[Tensor]:
        """The encoder's memory float [B, d, h, w] to the state of the queries [B, Q, d] after every decoder layer."""
        queries = self.query_embed.weight.expand(len(memory), self.config.num_queries, self.config.d_model)
        return self.transformer.decoder(  # type: ignore[no-any-return]
            queries, self._rows(memory), cells.mask, cells.positions
        )

    def predict(self, state: Tensor) -> Predictions:
        """The state of the queries [B, Q, d] to what they say."""
        return Predictions(self.class_embed(state), self.bbox_embed(state).sigmoid())

    def _rows(self, x: Tensor) -> Tensor:
        """[B, d, h, w] to [B, h * w, d]."""
        return x.reshape(len(x), self.config.d_model, -1).transpose(1, 2)
