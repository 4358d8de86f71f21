"""Where an R-CNN may be cut, and the segments that come out.

| cut          | after                    | tensor on the wire | shape                        |
|--------------|--------------------------|--------------------|------------------------------|
| `l0`         | the stem                 | `l0`               | [1, width, H / 4, W / 4]     |
| `bottleneck` | the bottleneck's encoder | `bottleneck`       | [1, C, H / 4 + 4, W / 4 + 4] |
| `restored`   | its decoder              | `restored`         | [1, layer1's, H / 4, W / 4]  |

Behind layer1 the pyramid branches off, so that a cut there would have to send every branch (Matsubara and Levorato 2020, section
3); a cut at `restored` is for bundles of several widths (`cut.py`). The parts in a row, `compress` and `restore` only with a
bottleneck: stem, compress, restore, rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .bottleneck import StudentLayer1
from .pixels import normalise
from .rcnn import Rcnn
from .rcnn_config import RcnnConfig, RcnnKind
from .rcnn_tail import detect
from .segment import Segment, between

OUTPUTS: dict[RcnnKind, tuple[str, ...]] = {
    "faster": ("det_boxes", "det_scores", "det_labels"),
    "mask": ("det_boxes", "det_scores", "det_labels", "det_masks"),
    "keypoint": ("det_boxes", "det_scores", "det_labels", "det_heatmaps"),
}
"""Kind -> names of what `rcnn_tail.detect` gives."""

_CUT_AFTER = {"stem": "l0", "compress": "bottleneck", "restore": "restored"}
_STEM = ("backbone.body.conv1.", "backbone.body.bn1.")
_COMPRESS = ("backbone.body.layer1.encoder.",)
_RESTORE = ("backbone.body.layer1.decoder.",)
_NAMES = {
    ("stem",): "stem",
    ("stem", "compress"): "compressor",
    ("stem", "compress", "restore"): "head",
    ("compress",): "compressor",
    ("restore",): "decompressor",
    ("compress", "restore", "rest"): "detector_tail",
    ("restore", "rest"): "detector_tail",
    ("rest",): "detector_tail",
}


def parts_of(config: RcnnConfig) -> tuple[str, ...]:
    """The parts of such an R-CNN, in order."""
    return ("stem", "compress", "restore", "rest") if config.bottleneck else ("stem", "rest")


def cuts_of(config: RcnnConfig) -> tuple[str, ...]:
    """The cuts that such an R-CNN offers, in order."""
    return tuple(_CUT_AFTER[part] for part in parts_of(config) if part in _CUT_AFTER)


class RcnnSegment(Segment):
    """Some parts of an R-CNN in a row."""

    def __init__(self, rcnn: Rcnn, parts: Sequence[str], pixel_size: tuple[int, int] | None) -> None:
        every = parts_of(rcnn.config)
        first, last = every.index(parts[0]), every.index(parts[-1])
        rest: tuple[str, ...] = ("backbone.body.layer", "backbone.fpn.", "rpn.", "roi_heads.")
        if rcnn.config.bottleneck:
            layers = tuple(f"backbone.body.layer{number}." for number in (2, 3, 4))
            rest = (*layers, *rest[1:])
        prefixes = {"stem": _STEM, "compress": _COMPRESS, "restore": _RESTORE, "rest": rest}
        super().__init__(
            _NAMES.get(tuple(parts), "detector"),
            parts,
            pixel_size,
            "pixels" if first == 0 else _CUT_AFTER[every[first - 1]],
            _CUT_AFTER.get(every[last]),
            _CUT_AFTER.get(every[last]),
            tuple(prefix for part in parts for prefix in prefixes[part]),
            OUTPUTS[rcnn.config.kind],
        )
        self.rcnn = rcnn

    def compute(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """See `Segment.compute`."""
        body = self.rcnn.backbone.body
        layer1 = body.layer1
        if "stem" in self.parts:
            # Contiguous at every cut, so that the layout, hence the rounding, is the same whether the wire lies there or not.
            x = body.stem(normalise(x, valid_size[None])).contiguous()
        if "compress" in self.parts:
            x = layer1.encoder(x).contiguous()
        if "restore" in self.parts:
            x = layer1.decoder(x).contiguous()
        if "rest" not in self.parts:
            return (x,)
        c2 = x if isinstance(layer1, StudentLayer1) else layer1(x)
        return detect(self.rcnn, body.stages_after(c2), valid_size)


def split(rcnn: Rcnn, cuts: Sequence[str], pixel_size: tuple[int, int] | None) -> list[RcnnSegment]:
    """The segments between `cuts`; without cuts one segment, the whole model.

    Raises ConfigError for an unknown, repeated or misplaced cut.
    """
    parts = parts_of(rcnn.config)
    cut_after = {part: _CUT_AFTER[part] for part in parts if part in _CUT_AFTER}
    return [RcnnSegment(rcnn, piece, pixel_size) for piece in between(parts, cut_after, cuts)]
