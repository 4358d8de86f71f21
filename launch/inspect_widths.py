"""What `inspect --widths` says: head, tail and wire of a bundle or of a named detector at every width."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..stages.bundle import Bundle, WireType
from ..stages.wire import WireForm

if TYPE_CHECKING:
    from ..models.detector import Config

_WIRES: tuple[WireType, ...] = ("fp16", "uint8", "uint4")


def inspect_bundle(folder: Path, *, as_json: bool) -> None:
    """Print what the manifest says of every width; needs no torch. Raises BundleError."""
    bundle = Bundle.load(folder, verify=False)
    rows = []
    for width in bundle.widths:
        stages = bundle.at_width(width).stages
        head, tail = stages[: bundle.num_head_stages], stages[bundle.num_head_stages :]
        wires = set(head[-1].wire_tensors)
        channels = [tensor.shape[1] for tensor in head[-1].outputs if tensor.name in wires]
        rows.append(
            _row(
                width,
                channels[0] if channels else None,
                head[-1].max_wire_bytes // 4,
                [(stage.num_parameters, stage.num_macs) for stage in head],
                [(stage.num_parameters, stage.num_macs) for stage in tail],
            )
        )
    result = {"bundle": str(folder), "detector": bundle.detector, "size": bundle.preprocess.size, "widths": rows}
    _show(result, f"{folder}: {bundle.detector}", as_json=as_json)


def inspect_widths(detector: str, config: Config, size: tuple[int, int], *, as_json: bool) -> None:
    """Print the same of a named detector with a slimmable bottleneck, for images of `size` pixels."""
    from ..models.census import census

    rows = []
    for width in config.widths:
        counted = census(config, size, width)
        last = counted.row_of("bottleneck")
        place = counted.rows.index(last) + 1
        head, tail = counted.rows[:place], counted.rows[place:]
        costs = [[(row.num_parameters, row.num_macs) for row in part] for part in (head, tail)]
        rows.append(_row(width, last.shape[0], last.num_elements, *costs))
    result = {
        "detector": detector,
        "bottleneck": config.bottleneck,
        "configurable": config.configurable,
        "size": list(counted.size),
        "widths": rows,
    }
    title = f"{detector}, bottleneck of {config.bottleneck} channels, {counted.size[0]}x{counted.size[1]}"
    _show(result, title, as_json=as_json)


def _row(
    width: float,
    channels: int | str | None,
    num_elements: int,
    head: Sequence[tuple[int, int]],
    tail: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """`head` and `tail` are parameters and MACs of their parts."""
    parts = {
        name: {"num_parameters": sum(cost[0] for cost in costs), "num_macs": sum(cost[1] for cost in costs)}
        for name, costs in (("head", head), ("tail", tail))
    }
    wire_bytes = {wire: WireForm.of(wire).num_code_bytes(num_elements) for wire in _WIRES}
    return {"width": width, "channels": channels, "wire_bytes": wire_bytes, **parts}


def _show(result: dict[str, Any], title: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = Table(title=title, caption=_CONVENTIONS)
    columns = (
        "width",
        "channels",
        *(f"{wire} kB" for wire in _WIRES),
        "head M",
        "GMAC",
        "tail M",
        "GMAC",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for row in result["widths"]:
        cells = [f"{row['width']:g}", str(row["channels"] or "")]
        cells += [f"{row['wire_bytes'][wire] / 1e3:,.2f}" for wire in _WIRES]
        for part in ("head", "tail"):
            cells += [f"{row[part]['num_parameters'] / 1e6:.3f}", f"{row[part]['num_macs'] / 1e9:.3f}"]
        table.add_row(*cells)
    Console().print(table)


_CONVENTIONS = (
    "kB: the elements of a frame on the wire, of a dynamic size the most there can be; scales and zero points take 5 bytes "
    "more. M: million parameters; they and MACs are counted as everywhere in inspect."
)
