"""Where a DETR may be cut, and the segments that come out.

| cut          | after           | tensor on the wire | shape                                   |
|--------------|-----------------|--------------------|-----------------------------------------|
| `c5`         | the backbone    | `c5`               | [1, C, h, w], C = 2048 (512 for R18/34) |
| `projection` | the 1x1 conv    | `features`         | [1, d, h, w]                            |
| `memory`     | the encoder     | `memory`           | [1, d, h, w]                            |

A segment is named by its parts: `backbone` (with or without the projection), `backbone_encoder`, `projection`, `encoder`
(with or without the projection), `transformer` (encoder and decoder), `decoder`, and `detector` for the uncut model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..pipeline.errors import ConfigError
from ..stages.bundle import WIRE_SUFFIXES
from .detr import Detr
from .quantize import wire_forms

WIRE_TENSOR = {"c5": "c5", "projection": "features", "memory": "memory"}
"""Cut -> name of the tensor that crosses it, in the order of the model."""
CUTS = tuple(WIRE_TENSOR)
PARTS = ("backbone", "projection", "encoder", "decoder")
PART_PREFIXES: dict[str, tuple[str, ...]] = {
    "backbone": ("backbone.",),
    "projection": ("input_proj.",),
    "encoder": ("transformer.encoder.",),
    "decoder": ("transformer.decoder.", "query_embed.", "class_embed.", "bbox_embed."),
}
"""Part -> what the names of its parameters and buffers begin with."""
OUTPUTS = ("pred_logits", "pred_boxes")

_NAMES = {
    ("backbone", "projection", "encoder", "decoder"): "detector",
    ("backbone", "projection", "encoder"): "backbone_encoder",
    ("backbone", "projection"): "backbone",
    ("projection", "encoder", "decoder"): "transformer",
    ("projection", "encoder"): "encoder",
    ("encoder", "decoder"): "transformer",
}


class Segment(nn.Module):
    """Some parts of a DETR in a row; one graph of a bundle.

    `pixel_size` is height and width of `pixels` where they are fixed, None where they vary by frame.
    """

    def __init__(self, detr: Detr, parts: Sequence[str], pixel_size: tuple[int, int] | None) -> None:
        super().__init__()
        self.detr = detr
        self.parts = tuple(parts)
        self.pixel_size = pixel_size
        first, last = PARTS.index(self.parts[0]), PARTS.index(self.parts[-1])
        self.name = _NAMES.get(self.parts, self.parts[0])
        self.input_name = "pixels" if first == 0 else WIRE_TENSOR[CUTS[first - 1]]
        self.wire_name = None if last == len(CUTS) else WIRE_TENSOR[CUTS[last]]
        """The float32 tensor for the next segment; None for the last one."""
        self.prefixes = tuple(prefix for part in self.parts for prefix in PART_PREFIXES[part])
        """What the names of this segment's parameters and buffers, in the whole detector, begin with."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` gives, in order."""
        if self.wire_name is None:
            return OUTPUTS
        return tuple(self.wire_name + suffix for suffixes in WIRE_SUFFIXES.values() for suffix in suffixes)

    @property
    def fp32_names(self) -> tuple[str, ...]:
        """Names of what `compute` gives, in order."""
        return OUTPUTS if self.wire_name is None else (self.wire_name,)

    def forward(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """`x` is `pixels` uint8 [1, H, W, 3] RGB or the tensor on the wire, `valid_size` int64 [2]."""
        outputs = self.compute(x, valid_size)
        return outputs if self.wire_name is None else wire_forms(outputs[0])

    def compute(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, but the tensor for the next segment in float32 only."""
        detr, size = self.detr, valid_size[None]
        if "backbone" in self.parts:
            # Contiguous at every cut, so that the layout, hence the rounding, is the same whether the wire lies there or not.
            x = detr.backbone(detr.normalise(x, size)).contiguous()
        if "projection" in self.parts:
            x = detr.input_proj(x).contiguous()
        if self.parts[-1] in ("encoder", "decoder"):
            cells = detr.cells(x, size, self.pixel_size)
            if "encoder" in self.parts:
                x = detr.encode(x, cells).contiguous()
            if "decoder" in self.parts:
                return tuple(detr.predict(detr.decode(x, cells)[-1]))
        return (x,)


def split(detr: Detr, cuts: Sequence[str], pixel_size: tuple[int, int] | None) -> list[Segment]:
    """The segments between `cuts`, which come in the order of the model; without cuts one segment, the whole model.

    Raises ConfigError for an unknown, repeated or misplaced cut.
    """
    unknown = [cut for cut in cuts if cut not in CUTS]
    if unknown:
        raise ConfigError(f"there is no cut {unknown[0]!r}; choose among {', '.join(CUTS)}, or none")
    ends = [CUTS.index(cut) + 1 for cut in cuts]
    if ends != sorted(set(ends)):
        raise ConfigError(f"the cuts {','.join(cuts)} must each come once and in the order {','.join(CUTS)}")
    bounds = [0, *ends, len(PARTS)]
    return [Segment(detr, PARTS[begin:end], pixel_size) for begin, end in pairwise(bounds)]
