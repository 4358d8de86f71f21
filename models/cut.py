"""Where a DETR may be cut, and the segments that come out.

| cut          | after                 | tensor on the wire | shape                                    |
|--------------|-----------------------|--------------------|------------------------------------------|
| `l0`         | the stem              | `l0`               | [1, width, H / 4, W / 4]                 |
| `bottleneck` | a bottleneck's encoder| `bottleneck`       | [1, C, H / 4 + 4, W / 4 + 4], or [1, C, h, w] |
| `restored`   | its decoder           | `restored`         | that of layer1's output, or of `features` |
| `c5`         | the backbone          | `c5`               | [1, C, h, w], C = 2048 (512 for R18/34)  |
| `projection` | the 1x1 conv          | `features`         | [1, d, h, w]                             |
| `memory`     | the encoder           | `memory`           | [1, d, h, w]                             |

A cut at `restored` is for bundles of several widths, whose compressor and decompressor differ between widths and nothing else
does; nobody sends that tensor. The parts in a row, `compress` and `restore` only where there is a bottleneck, in layer1 or
behind the projection:

    stem  [compress  restore]  layers  projection  [compress  restore]  encoder  decoder
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .bottleneck import StudentLayer1
from .detr import Detr, DetrConfig
from .segment import Segment, between

WIRE_TENSOR = {
    "l0": "l0",
    "bottleneck": "bottleneck",
    "restored": "restored",
    "c5": "c5",
    "projection": "features",
    "memory": "memory",
}
"""Cut -> name of the tensor that crosses it."""
OUTPUTS = ("pred_logits", "pred_boxes")

_CUT_AFTER = {
    "stem": "l0",
    "compress": "bottleneck",
    "restore": "restored",
    "layers": "c5",
    "projection": "projection",
    "encoder": "memory",
}
_PREFIXES: dict[str, tuple[str, ...]] = {
    "stem": ("backbone.conv1.", "backbone.bn1."),
    "layers": ("backbone.layer2.", "backbone.layer3.", "backbone.layer4."),
    "projection": ("input_proj.",),
    "encoder": ("transformer.encoder.",),
    "decoder": ("transformer.decoder.", "query_embed.", "class_embed.", "bbox_embed."),
}
_NAMES = {
    ("stem", "layers", "projection", "encoder", "decoder"): "detector",
    ("stem", "layers", "projection", "encoder"): "backbone_encoder",
    ("stem", "layers", "projection"): "backbone",
    ("stem", "layers"): "backbone",
    ("stem",): "stem",
    ("layers", "projection", "encoder", "decoder"): "detector_tail",
    ("layers", "projection", "encoder"): "layers_encoder",
    ("layers", "projection"): "layers",
    ("projection", "encoder", "decoder"): "transformer",
    ("projection", "encoder"): "encoder",
    ("encoder", "decoder"): "transformer",
}


def parts_of(config: DetrConfig) -> tuple[str, ...]:
    """The parts of such a DETR, in order."""
    parts = ["stem", "layers", "projection", "encoder", "decoder"]
    if config.bottleneck:
        place = 1 if config.bottleneck_at == "layer1" else 3
        parts[place:place] = ["compress", "restore"]
    return tuple(parts)


def cuts_of(config: DetrConfig) -> tuple[str, ...]:
    """The cuts that such a DETR offers, in order."""
    return tuple(_CUT_AFTER[part] for part in parts_of(config) if part in _CUT_AFTER)


CUTS = cuts_of(DetrConfig())
"""The cuts of a DETR without a bottleneck."""


def prefixes_of(config: DetrConfig, part: str) -> tuple[str, ...]:
    """What the names of a part's parameters and buffers begin with."""
    at = "backbone.layer1." if config.bottleneck_at == "layer1" else "bottleneck."
    if part in ("compress", "restore"):
        return (f"{at}encoder." if part == "compress" else f"{at}decoder.",)
    in_layer1 = config.bottleneck and config.bottleneck_at == "layer1"
    return _PREFIXES[part] + (("backbone.layer1.",) if part == "layers" and not in_layer1 else ())


class DetrSegment(Segment):
    """Some parts of a DETR in a row."""

    def __init__(self, detr: Detr, parts: Sequence[str], pixel_size: tuple[int, int] | None) -> None:
        every = parts_of(detr.config)
        first, last = every.index(parts[0]), every.index(parts[-1])
        plain = tuple(part for part in parts if part not in ("compress", "restore"))
        name = _NAMES.get(plain, "_".join(plain))
        if parts[-1] == "compress" and plain in ((), ("stem",)):
            name = "compressor"
        elif tuple(parts) == ("restore",):
            name = "decompressor"
        super().__init__(
            name,
            parts,
            pixel_size,
            "pixels" if first == 0 else WIRE_TENSOR[_CUT_AFTER[every[first - 1]]],
            _CUT_AFTER.get(every[last]),
            WIRE_TENSOR[_CUT_AFTER[every[last]]] if every[last] in _CUT_AFTER else None,
            tuple(prefix for part in parts for prefix in prefixes_of(detr.config, part)),
            OUTPUTS,
        )
        self.detr = detr

    def compute(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """See `Segment.compute`."""
        detr, size = self.detr, valid_size[None]
        if self.parts[0] == "stem":
            x = detr.normalise(x, size)
        cells = None
        for part in self.parts:
            if part in ("encoder", "decoder") and cells is None:
                cells = detr.cells(x, size, self.pixel_size)
            if part == "decoder":
                assert cells is not None
                return tuple(detr.predict(detr.decode(x, cells)[-1]))
            if part == "encoder":
                assert cells is not None
                x = detr.encode(x, cells)
            else:
                x = self._part(part, x)
            # Contiguous at every cut, so that the layout, hence the rounding, is the same whether the wire lies there or not.
            x = x.contiguous()
        return (x,)

    def _part(self, part: str, x: Tensor) -> Tensor:
        detr = self.detr
        bottleneck = detr.bottleneck if detr.bottleneck is not None else detr.backbone.layer1
        if part == "stem":
            x = detr.backbone.stem(x)
        elif part == "compress":
            x = bottleneck.encoder(x)  # type: ignore[operator]
        elif part == "restore":
            x = bottleneck.decoder(x)  # type: ignore[operator]
        elif part == "layers":
            c2 = x if isinstance(detr.backbone.layer1, StudentLayer1) else detr.backbone.layer1(x)
            x = detr.backbone.stages_after(c2)[-1]
        else:
            x = detr.input_proj(x)
        return x


def split(detr: Detr, cuts: Sequence[str], pixel_size: tuple[int, int] | None) -> list[DetrSegment]:
    """The segments between `cuts`, which come in the order of the model; without cuts one segment, the whole model.

    Raises ConfigError for an unknown, repeated or misplaced cut.
    """
    parts = parts_of(detr.config)
    cut_after = {part: _CUT_AFTER[part] for part in parts if part in _CUT_AFTER}
    return [DetrSegment(detr, piece, pixel_size) for piece in between(parts, cut_after, cuts)]
