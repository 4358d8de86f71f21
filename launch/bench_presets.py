"""The settings that `splitrail bench overlap --preset` knows, and the bar each has to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..bench.overlap_config import BUNDLE
from ..pipeline.errors import ConfigError

Table = Literal["overlap", "loop", "cost", "endurance"]
_BESIDE = ("full", "naive", "blocking", "pickle", "zeromq", "single")


@dataclass(frozen=True, slots=True)
class Bar:
    """What a row has to reach."""

    engine: str
    overlap: str
    limits: dict[str, float]
    """Key of the row -> limit; `efficiency` must be at least that, all others at most."""

    def judge(self, row: dict[str, Any]) -> bool | None:
        """Whether the row reaches it; None where the bar is of other rows."""
        if (row["engine"], row["overlap"]) != (self.engine, self.overlap):
            return None
        return all(_is_within(key, row[key], limit) for key, limit in self.limits.items())

    def __str__(self) -> str:
        return ", ".join(f"{'>=' if key == 'efficiency' else '<='} {limit:g}" for key, limit in self.limits.items())


def _is_within(key: str, value: float, limit: float) -> bool:
    if key == "efficiency":
        return value >= limit
    # Measuring never makes a run faster: a cost far below 0 is the machine's noise, and proves as little as one far above.
    return (abs(value) if key == "cost" else value) <= limit


@dataclass(frozen=True, slots=True)
class Preset:
    """One table."""

    name: str
    title: str
    frame_bytes: int
    num_frames: int
    link_rate: str | None = None
    """Of an emulated link; None: no link, both ranks share this machine's memory."""
    link_delay: str | None = None
    stage_ms: float = 0.0
    """Work of each stage, ms; 0: as long as the wire takes."""
    engines: tuple[str, ...] = ("sleep", "native", "mix")
    overlaps: tuple[str, ...] = _BESIDE
    table: Table = "overlap"
    bar: Bar | None = None


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "gigabit",
            "balanced at 1 Gbit/s: the raw C5 of ResNet-50 at 800x1066",
            6_963_200,
            60,
            "1gbit",
            bar=Bar("sleep", "full", {"efficiency": 0.99}),
        ),
        Preset(
            "long",
            "balanced at 100 Mbit/s and 20 ms round trip: projected features at 480x640, fp16",
            153_600,
            200,
            "100mbit",
            "10ms",
            bar=Bar("sleep", "full", {"efficiency": 0.92}),
        ),
        Preset(
            "slow",
            "balanced at 10 Mbit/s: projected features at 480x640, uint8",
            76_800,
            60,
            "10mbit",
            bar=Bar("sleep", "full", {"efficiency": 0.95}),
        ),
        Preset(
            "loop",
            "no work, no link: the runtime's own time",
            1_000,
            2_000,
            engines=("none",),
            overlaps=("full", "naive", "blocking", "pickle", "zeromq"),
            table="loop",
            bar=Bar("none", "full", {"own_p50_ms": 0.3, "own_p99_ms": 1.0}),
        ),
        Preset(
            "transport",
            "no work at 1 Gbit/s: the rate of the frames over that of one raw TCP connection",
            307_200,
            1_000,
            "1gbit",
            engines=("none",),
            overlaps=("full", "naive", "blocking", "pickle", "zeromq"),
            bar=Bar("none", "full", {"efficiency": 0.99}),
        ),
        Preset(
            "cost",
            "what journals and meters cost: stages of 10 ms",
            153_600,
            300,
            stage_ms=10.0,
            overlaps=("full", "measured"),
            table="cost",
            # Computing stages are shown beside it; where the speed of a core itself varies from run to run they prove nothing.
            bar=Bar("sleep", "measured", {"cost": 0.01}),
        ),
        Preset(
            "endurance",
            "10,000 frames, numbers and contents checked: memory from frame 2,000 to the last",
            20_000,
            10_000,
            engines=("none",),
            overlaps=("full", "measured"),
            table="endurance",
            bar=Bar("none", "full", {"growth_mb": 2.0}),
        ),
    )
}


def presets_of(text: str) -> tuple[Preset, ...]:
    """From `--preset`: names joined by commas, or all. Raises ConfigError."""
    if text == "all":
        return tuple(PRESETS.values())
    unknown = sorted(set(text.split(",")) - set(PRESETS))
    if unknown:
        raise ConfigError(f"--preset {unknown[0]!r} is unknown; choose among {', '.join(PRESETS)}, all")
    return tuple(PRESETS[name] for name in text.split(","))


def bundle_preset(link_rate: str | None, link_delay: str | None) -> Preset:
    """The table of a user's own detector."""
    return Preset(
        BUNDLE,
        "the detector of the bundle, head on rank 0 and tail on rank 1",
        0,
        100,
        link_rate,
        link_delay,
        engines=(BUNDLE,),
    )
