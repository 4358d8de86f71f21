"""A piece of a detector between two cuts: one graph of a bundle."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..pipeline.errors import ConfigError
from ..stages.bundle import WIRE_SUFFIXES
from .quantize import wire_forms


class Segment(nn.Module):
    """Some parts of a detector in a row.

    `pixel_size` is height and width of `pixels` where they are fixed, None where they vary by frame.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[str],
        pixel_size: tuple[int, int] | None,
        input_name: str,
        cut: str | None,
        wire_name: str | None,
        prefixes: tuple[str, ...],
        outputs: Sequence[str],
    ) -> None:
        super().__init__()
        self.name = name
        self.parts = tuple(parts)
        self.pixel_size = pixel_size
        self.input_name = input_name
        self.cut = cut
        """The cut that ends it; None for the last one."""
        self.wire_name = wire_name
        """The float32 tensor for the next segment; None for the last one."""
        self.prefixes = prefixes
        """What the names of this segment's parameters and buffers, in the whole detector, begin with."""
        self._outputs = tuple(outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` gives, in order."""
        if self.wire_name is None:
            return self._outputs
        return tuple(self.wire_name + suffix for suffixes in WIRE_SUFFIXES.values() for suffix in suffixes)

    @property
    def fp32_names(self) -> tuple[str, ...]:
        """Names of what `compute` gives, in order."""
        return self._outputs if self.wire_name is None else (self.wire_name,)

    def forward(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """`x` is `pixels` [1, H, W, 3] RGB 0..255 or the tensor on the wire, `valid_size` int64 [2]."""
        outputs = self.compute(x, valid_size)
        return outputs if self.wire_name is None else wire_forms(outputs[0])

    @abstractmethod
    def compute(self, x: Tensor, valid_size: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, but the tensor for the next segment in float32 only."""


def between(parts: Sequence[str], cut_after: Mapping[str, str], cuts: Sequence[str]) -> list[tuple[str, ...]]:
    """The `parts` of a detector between `cuts`; `cut_after` is part -> cut, in the order of the model.

    Raises ConfigError for an unknown, repeated or misplaced cut.
    """
    order = list(cut_after.values())
    unknown = [cut for cut in cuts if cut not in order]
    if unknown:
        raise ConfigError(f"there is no cut {unknown[0]!r}; choose among {', '.join(order)}, or none")
    places = [order.index(cut) for cut in cuts]
    if places != sorted(set(places)):
        raise ConfigError(f"the cuts {','.join(cuts)} must each come once and in the order {','.join(order)}")
    part_before = {cut: part for part, cut in cut_after.items()}
    bounds = [0, *(parts.index(part_before[cut]) + 1 for cut in cuts), len(parts)]
    return [tuple(parts[begin:end]) for begin, end in pairwise(bounds)]
