"""The rows of `splitrail bench overlap` as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .bench_presets import Preset

_WIDTH = 150
Cell = Callable[[dict[str, Any]], str]


def print_rows(preset: Preset, rows: Sequence[dict[str, Any]], console: Console) -> None:
    """One table, and what all its rows share below it."""
    table = Table()
    columns = _COLUMNS[preset.table]
    if not any("bar" in row for row in rows):
        columns = {name: cell for name, cell in columns.items() if name != "bar"}
    for name in columns:
        table.add_column(name, justify="left" if name in ("engine", "frames by", "bar") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console.print(f"{preset.name}: {preset.title}", soft_wrap=True)
    # Names and numbers that are cut off tell nothing: in a terminal that is too narrow the lines wrap.
    console.width = max(console.width, _WIDTH)
    console.print(table)
    first = rows[0]
    link = f"link {first['raw_tcp_mbit_s']:.1f} Mbit/s raw TCP, " if preset.link_rate or preset.link_delay else ""
    console.print(
        f"{first['frame_bytes']} bytes a frame, {first['num_frames']} frames, {first['num_runs']} run(s) of each row; "
        f"{link}round trip {first['round_trip_ms']:.2f} ms"
    )
    if not all(row["same_results"] for row in rows):
        console.print("the results of the rows differ: do not compare their times")
    elif first["digest"] != "00000000":
        console.print(f"all rows gave the same detections (CRC-32 {first['digest']})")


def _ms(key: str) -> Cell:
    return lambda row: f"{row[key]:.1f}"


def _spread(key: str, text: str = ".3f") -> Cell:
    return lambda row: f"{format(row[key], text)} [{'-'.join(format(value, text) for value in row[f'{key}_spread'])}]"


def _optional(key: str, text: str) -> Cell:
    return lambda row: "-" if row.get(key) is None else format(row[key], text)


def _bar(row: dict[str, Any]) -> str:
    return f"{row['bar']} {'reached' if row['bar_reached'] else 'MISSED'}" if "bar" in row else ""


def _cost(row: dict[str, Any]) -> str:
    if row["overlap"] == "full":
        return "-"
    low, high = row["cost_spread"]
    return f"{row['cost']:+.2%} [{low:+.2%} to {high:+.2%}]"


_NAMES: dict[str, Cell] = {"engine": lambda row: row["engine"], "frames by": lambda row: row["overlap"]}
_COLUMNS: dict[str, dict[str, Cell]] = {
    "overlap": {
        **_NAMES,
        "edge ms": _ms("edge_ms"),
        "wire ms": _ms("wire_ms"),
        "tail ms": _ms("tail_ms"),
        "ideal ms": _ms("ideal_ms"),
        "measured ms": _ms("measured_ms"),
        "efficiency": _spread("efficiency"),
        "of solo": _optional("solo_efficiency", ".3f"),
        "x naive": _optional("times_naive", ".2f"),
        "delay ms": lambda row: f"{row['delay']['p50_ms']:.1f}",
        "bar": _bar,
    },
    "loop": {
        **_NAMES,
        "own p50 ms": _spread("own_p50_ms"),
        "own p99 ms": _spread("own_p99_ms"),
        "per frame ms": lambda row: f"{row['measured_ms']:.3f}",
        "CPU ms": lambda row: " + ".join(f"{value:.3f}" for value in row["cpu_ms"]),
        "delay ms": lambda row: f"{row['delay']['p50_ms']:.2f}",
        "bar": _bar,
    },
    "cost": {
        **_NAMES,
        "per frame ms": lambda row: f"{row['measured_ms']:.3f}",
        "CPU ms": lambda row: " + ".join(f"{value:.3f}" for value in row["cpu_ms"]),
        "cost of measuring": _cost,
        "bar": _bar,
    },
    "endurance": {
        **_NAMES,
        "frames": lambda row: str(row["num_frames"]),
        "per frame ms": lambda row: f"{row['measured_ms']:.3f}",
        "memory grew MB": lambda row: f"{row['growth_mb']:.2f}",
        "bar": _bar,
    },
}
