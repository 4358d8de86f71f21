"""The ways in which a run may compute and send a frame, from which a controller chooses one for each.

| way     | the edge                                   | what travels                      | the far side          |
|---------|--------------------------------------------|-----------------------------------|-----------------------|
| split   | the head at the setting's width            | features as the setting's wire    | the tail at that width |
| local   | head, tail at the width, post-processing   | detections                        | passes them on        |
| offload | pre-processing                             | the network's input as JPEG       | everything else       |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..pipeline.errors import BundleError, ConfigError
from .bundle import Bundle, MeasuredAccuracy, WireType

Way = Literal["split", "local", "offload"]
WAYS: tuple[Way, ...] = get_args(Way)
WIRES: tuple[WireType, ...] = ("fp16", "uint8", "uint4")
"""What a split is tried with where nothing else is said."""
JPEG_QUALITIES = (50, 75, 90)
"""The same of an offload."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to do a frame. `wire` counts where it is split, `jpeg_quality` where it is offloaded."""

    way: Way
    width: float = 1.0
    """Of the bundle's widths; 1 where it is offloaded."""
    wire: WireType = "fp32"
    jpeg_quality: int | None = None
    accuracy: float | None = None
    """mAP@50:95 of boxes in [0, 1] by the bundle's table; None where it was not measured."""
    bytes_per_frame: float | None = None
    """Mean payload by the same table, bytes."""

    @property
    def name(self) -> str:
        """For people: "0.5 uint8", "local 1", "offload q75"."""
        if self.way == "split":
            return f"{self.width:g} {self.wire}"
        return f"local {self.width:g}" if self.way == "local" else f"offload q{self.jpeg_quality}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("name", "way", "width", "wire", "jpeg_quality", "accuracy", "bytes_per_frame")
        return {name: getattr(self, name) for name in names}


def settings_of(
    bundle: Bundle, ways: Sequence[Way] = ("split",), wires: Sequence[WireType] | None = None
) -> tuple[Setting, ...]:
    """Every setting of the allowed ways and wires, in an order that follows from the bundle alone: by way, then from the
    widest to the narrowest, then as `wires` has them. By default those wires and qualities that the bundle's table of
    accuracies has, or `WIRES` and `JPEG_QUALITIES` where it has none.

    Raises ConfigError: no way, or a split of a bundle without a cut.
    """
    if not ways:
        raise ConfigError(f"no way to do a frame is allowed; give --adapt-ways one or more of {', '.join(WAYS)}")
    if len(bundle.stages) < 2:
        raise ConfigError("this bundle has one graph and nothing to adapt; export the detector with --cut or --widths")
    rows = {_key(row): row for row in bundle.accuracy if row.filter_threshold is None}
    if wires is None:
        measured = [row.wire for row in rows.values() if row.way == "split"]
        wires = tuple(dict.fromkeys(measured)) or WIRES
    qualities = sorted({row.jpeg_quality for row in rows.values() if row.jpeg_quality is not None}) or JPEG_QUALITIES
    widths = tuple(reversed(bundle.widths))
    plain: list[Setting] = []
    for way in WAYS:
        if way not in ways:
            continue
        if way == "split":
            plain += [Setting("split", width, wire) for width in widths for wire in wires]
        elif way == "local":
            plain += [Setting("local", width) for width in widths]
        else:
            plain += [Setting("offload", jpeg_quality=quality) for quality in reversed(qualities)]
    return tuple(_measured(setting, rows.get(_key(setting))) for setting in plain)


def with_accuracy(settings: Sequence[Setting], where: str) -> tuple[Setting, ...]:
    """Those whose accuracy is known: what a policy may choose from.

    Raises BundleError: of none it is known. `where` names the bundle.
    """
    known = tuple(setting for setting in settings if setting.accuracy is not None)
    if not known:
        raise BundleError(
            f"the bundle {where} does not say how right it is with any of {', '.join(s.name for s in settings)}, so there "
            f"is nothing to choose by; measure it once with 'splitrail evaluate {where} --all-settings --record'"
        )
    return known


def _key(of: Setting | MeasuredAccuracy) -> tuple[str, float, str, int | None]:
    """What makes a setting another one."""
    wire = of.wire if of.way == "split" else ""
    return of.way, of.width if of.way != "offload" else 1.0, wire, of.jpeg_quality


def _measured(setting: Setting, row: MeasuredAccuracy | None) -> Setting:
    if row is None:
        return setting
    return Setting(setting.way, setting.width, setting.wire, setting.jpeg_quality, row.box_map, row.bytes_per_frame)
