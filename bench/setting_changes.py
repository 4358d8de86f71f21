"""What an adaptive run chose and why, and what it took the link to carry, as its journals tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .finished_run import FinishedRun


@dataclass(frozen=True, slots=True)
class SettingChange:
    """From this frame on another setting."""

    frame: int
    time_ns: int
    """By rank 0's clock."""
    name: str
    why: str
    bytes_per_frame: float | None
    """By the bundle's table."""


def setting_changes(run: FinishedRun) -> list[SettingChange]:
    """Every decision that changed something, the first setting included; empty for a run that does not adapt."""
    known: list[dict[str, Any]] = next(
        (facts["settings"] for facts in run.begins.values() if facts.get("settings")), []
    )
    sizes = {setting["name"]: setting["bytes_per_frame"] for setting in known}
    return [
        SettingChange(line["f"], time_ns, line["n"], line["why"], sizes.get(line["n"]))
        for time_ns, line in _events(run, "setting")
    ]


def rates_seen(run: FinishedRun) -> list[tuple[int, float]]:
    """Time by rank 0's clock, and the rate that the controller took the link to have then, bit/s."""
    return [
        (time_ns, float(line["rate_bit_per_s"]))
        for time_ns, line in _events(run, "link")
        if line.get("rate_bit_per_s") is not None
    ]


def names_by_frame(run: FinishedRun) -> dict[int, str]:
    """Frame -> the setting that it was sent with, of frames with a result."""
    changes = setting_changes(run)
    names: dict[int, str] = {}
    number = 0
    for output in sorted(run.outputs, key=lambda output: output.frame):
        while number + 1 < len(changes) and changes[number + 1].frame <= output.frame:
            number += 1
        if changes:
            names[output.frame] = changes[number].name
    return names


def _events(run: FinishedRun, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for rank in run.ranks:
        if rank in run.clocks:
            for line in run.journals[rank]:
                if line["e"] == name:
                    yield run.clocks[rank].to_rank0(line["t"]), line
