"""What `inspect` says of an EfficientDet: its parts at one width, and its head at every width."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..pipeline.errors import ConfigError

if TYPE_CHECKING:
    from ..models.census import Census
    from ..models.efficientdet_config import EfficientDetConfig


def efficientdet_of(
    detector: str, split: str, bottleneck: int, size: tuple[int, int] | None, width: float | None, *, computation: bool
) -> tuple[EfficientDetConfig, str]:
    """Configuration and cut ("input": none) for what `inspect` was asked. A width without a bottleneck means the widest published
    one. Raises ConfigError for options that do not go together."""
    from ..models.efficientdet_config import CHANNELS, EFFICIENTDETS, efficientdet_config
    from ..models.slimmable import WIDTHS, check_widths

    level = EFFICIENTDETS[detector].level
    if bottleneck == 0 and width is not None:
        bottleneck = max(CHANNELS[level])
    choices: dict[str, Any] = {"bottleneck": bottleneck}
    if size is not None:
        choices["size"] = size
    config = efficientdet_config(detector, choices)
    offered = ("input", "p3", "bottleneck") if bottleneck else ("input", "p3")
    cut = split or offered[-1]
    if cut not in offered:
        more = "" if bottleneck or cut != "bottleneck" else ", or add --bottleneck, such as 48"
        raise ConfigError(f"{detector} has no split {cut!r}; choose {' or '.join(offered)}{more}")
    if width is not None or (computation and bottleneck):
        if width is not None and not 0 < width <= 1:
            raise ConfigError(f"a width of {width} cannot be; give a fraction above 0 and up to 1, such as 0.5")
        widths = check_widths({*WIDTHS, *(() if width is None else (width,))})  # type: ignore[arg-type]
        config = replace(config, widths=widths, configurable="computation" if computation else "bandwidth")
    elif computation:
        raise ConfigError("--computation needs a width or a bottleneck; give --width, such as 0.5")
    return config, cut


def efficientdet_counts(config: EfficientDetConfig, width: float) -> tuple[Census, list[dict[str, Any]]]:
    """The parts at `width`, and with a bottleneck the head by width."""
    from ..models.efficientdet_census import costs_by_width, efficientdet_census

    return efficientdet_census(config, width), costs_by_width(config) if config.bottleneck else []


def print_widths(rows: list[dict[str, Any]], console: Console) -> None:
    """The head by width as a table."""
    table = Table(title="head by width", caption=_CONVENTIONS)
    for column in (
        "width",
        "channels",
        "wire kB",
        "parameters",
        "GMAC",
        "as published",
        "parameters*",
        "GMAC*",
        "as published*",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [f"{row['width']:g}", str(row["channels"]), f"{row['wire_elements'] / 1e3:,.1f}"]
        for kind in ("bandwidth", "computation"):
            cost = row[kind]
            cells += [
                f"{cost['num_parameters']:,}",
                f"{cost['num_macs'] / 1e9:.3f}",
                f"{cost['num_published'] / 1e9:.3f}",
            ]
        table.add_row(*cells)
    console.print(table)


_CONVENTIONS = (
    "wire: uint8. as published: with one for each bias added and two for each normalised value, as Assine et al. 2021 count. "
    "*: computation-configurable, where the encoder is slimmed too from its first stride-2 block on; else only what is "
    "next to the wire is."
)
