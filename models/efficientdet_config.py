"""Every choice in an EfficientDet, and those that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..pipeline.errors import ConfigError
from .compressor import KINDS, CompressorKind
from .slimmable import Configurable as Configurable
from .slimmable import check_slimmable

_SIDES = {0: 512, 1: 640, 2: 768}
_COARSEST_STRIDE = 128
"""Of P7: every level must have whole cells."""
P3_CHANNELS = {0: 40, 1: 40, 2: 48}
P3_STRIDE = 8
CHANNELS = {0: (10, 20, 30, 40), 1: (10, 20, 30, 40), 2: (12, 24, 36, 48)}
"""Level -> channels on the wire worth trying: those of Assine et al. 2021 for D1 and D2; D0's P3 is like D1's."""


@dataclass(frozen=True)
class EfficientDetConfig:
    """The defaults are EfficientDet-D0 as published for COCO (Tan et al. 2020), without a bottleneck."""

    level: int = 0
    """0, 1 or 2."""
    num_classes: int = 90
    """Without a background; labels are 1 to this."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the letterboxed input, multiples of 128; (0, 0): the level's own, 512, 640 or 768 square."""
    bottleneck: int = 0
    """Channels C on the wire; 0: no compressor, the wire carries P3 itself."""
    compressor: CompressorKind = "mbconv"
    widths: tuple[float, ...] = ()
    """Fractions of active channels that one set of weights serves; none: not slimmable."""
    configurable: Configurable = "bandwidth"
    """bandwidth: only what is next to the wire is slimmed. computation: also the encoder from its first stride-2 block on."""
    drop_path: float = 0.2
    """Stochastic depth in training: chance that the last residual block is left out, less for the earlier ones; 0: off."""

    def __post_init__(self) -> None:
        if self.level not in _SIDES:
            raise ConfigError(f"there is no EfficientDet-D{self.level} here; choose D0, D1 or D2")
        if self.num_classes < 1:
            raise ConfigError(f"an EfficientDet cannot have num_classes = {self.num_classes}; give at least 1")
        if self.size == (0, 0):
            object.__setattr__(self, "size", (_SIDES[self.level],) * 2)
        if any(side < _COARSEST_STRIDE or side % _COARSEST_STRIDE for side in self.size):
            height, width = self.size
            raise ConfigError(
                f"an EfficientDet's input cannot be {height}x{width}; give multiples of {_COARSEST_STRIDE}, such as 512x640"
            )
        if self.bottleneck < 0:
            raise ConfigError(f"a bottleneck of {self.bottleneck} channels cannot be; give 0 for none, or such as 12")
        if self.compressor not in KINDS:
            raise ConfigError(f"there is no compressor {self.compressor!r}; choose among {', '.join(KINDS)}")
        object.__setattr__(self, "widths", check_slimmable(self.widths, self.configurable, self.bottleneck))
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path = {self.drop_path} must be at least 0 and below 1")

    @property
    def p3_channels(self) -> int:
        """Channels where the detector is split."""
        return P3_CHANNELS[self.level]


EFFICIENTDETS = {f"efficientdet-d{level}": EfficientDetConfig(level) for level in _SIDES}


def efficientdet_config(detector: str, choices: Mapping[str, Any] | None = None) -> EfficientDetConfig:
    """The configuration of a named EfficientDet with some fields chosen otherwise. Raises ConfigError."""
    if detector not in EFFICIENTDETS:
        raise ConfigError(f"there is no EfficientDet {detector!r}; choose among {', '.join(EFFICIENTDETS)}")
    return replace(EFFICIENTDETS[detector], **(choices or {}))
