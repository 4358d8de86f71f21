"""Where an EfficientDet may be cut, and the segments that come out.

| cut          | after          | tensor on the wire | shape                                           |
|--------------|----------------|--------------------|-------------------------------------------------|
| `p3`         | the encoder    | `p3`               | [1, 40 (D2: 48), H / 8, W / 8]                  |
| `bottleneck` | the compressor | `bottleneck`       | [1, round(C alpha), H / 8, W / 8] (units: / 16) |
| `restored`   | the decompressor | `restored`       | that of `p3`                                    |

Behind P3 the pyramid branches off, so a later cut would have to send every branch; one at `restored` is for bundles of
several widths (`cut.py`). The parts in a row, `compress` and `restore` only with a bottleneck: encode, compress, restore, rest.
At a width the encoder may be slimmed too, so that P3 has fewer channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..stages.bundle import PreProcess
from .efficientdet import NUM_ENCODER_STAGES, EfficientDet
from .efficientdet_config import EfficientDetConfig
from .efficientdet_tail import anchors, detect
from .pixels import normalise
from .segment import Segment, between

OUTPUTS = ("det_boxes", "det_scores", "det_labels")

_CUT_AFTER = {"encode": "p3", "compress": "bottleneck", "restore": "restored"}
_ENCODER = tuple(f"backbone.blocks.{stage}." for stage in range(NUM_ENCODER_STAGES))
_PREFIXES: dict[str, tuple[str, ...]] = {
    "encode": ("backbone.conv_stem.", "backbone.bn1.", *_ENCODER),
    "compress": ("compressor.",),
    "restore": ("decompressor.",),
    "rest": (*(f"backbone.blocks.{stage}." for stage in range(3, 7)), "fpn.", "class_net.", "box_net."),
}
_NAMES = {
    ("encode",): "encoder",
    ("encode", "compress"): "compressor",
    ("encode", "compress", "restore"): "head",
    ("compress",): "compressor",
    ("restore",): "decompressor",
}


def parts_of(config: EfficientDetConfig) -> tuple[str, ...]:
    """The parts of such an EfficientDet, in order."""
    return ("encode", "compress", "restore", "rest") if config.bottleneck else ("encode", "rest")


def cuts_of(config: EfficientDetConfig) -> tuple[str, ...]:
    """The cuts that such an EfficientDet offers, in order. Without a compressor of its own the bottleneck is P3 itself."""
    if config.bottleneck and config.compressor == "restorer":
        return ("bottleneck", "restored")
    return ("p3", "bottleneck", "restored") if config.bottleneck else ("p3",)


def preprocess_of(config: EfficientDetConfig) -> PreProcess:
    """Letterboxed uint8 pixels: scaled to fit, top left; what is beyond the image is zero behind the normalisation."""
    return PreProcess(kind="detr", size=config.size)


class EfficientDetSegment(Segment):
    """Some parts of an EfficientDet in a row, at the width that `set_width` chose for the detector."""

    def __init__(self, model: EfficientDet, parts: Sequence[str]) -> None:
        every = parts_of(model.config)
        cut = _CUT_AFTER.get(parts[-1])
        first = every.index(parts[0])
        name = _NAMES.get(tuple(parts), "detector" if first == 0 else "detector_tail")
        input_name = "pixels" if first == 0 else _CUT_AFTER[every[first - 1]]
        prefixes = tuple(prefix for part in parts for prefix in _PREFIXES[part])
        super().__init__(name, parts, model.config.size, input_name, cut, cut, prefixes, OUTPUTS)
        self.model = model
        self.register_buffer("anchors", anchors(model.config.size), persistent=False)
        self.anchors: Tensor

    def compute(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """See `Segment.compute`."""
        model = self.model
        if "encode" in self.parts:
            # Contiguous at every cut, so that the layout, hence the rounding, is the same whether the wire lies there or not.
            x = model.encode(normalise(x, valid_size[None])).contiguous()
        if "compress" in self.parts:
            x = model.compressor(x).contiguous()
        if "restore" in self.parts:
            x = model.decompressor(x).contiguous()
        if "rest" not in self.parts:
            return (x,)
        logits, codes = model.predict(model.pyramid(x))
        return detect(logits, codes, self.anchors, model.config.num_classes, valid_size)


def split(model: EfficientDet, cuts: Sequence[str]) -> list[EfficientDetSegment]:
    """The segments between `cuts`; without cuts one segment, the whole model.

    Raises ConfigError for an unknown, repeated or misplaced cut.
    """
    offered = cuts_of(model.config)
    cut_after = {part: cut for part, cut in _CUT_AFTER.items() if cut in offered}
    return [EfficientDetSegment(model, piece).eval() for piece in between(parts_of(model.config), cut_after, cuts)]
