"""What one measurement of the overlap bench does."""

from __future__ import annotations

from dataclasses import dataclass

OVERLAPS = ("full", "measured", "naive", "blocking", "pickle", "zeromq", "single")
"""What carries the frames: the channel; the channel with journals and meters, as in a run; and what one writes without it,
namely the two loops of `pipeline/baselines.py` and the programs of `baseline_*.py`."""
WITH_CHANNEL = ("full", "measured")
ENGINES = ("sleep", "native", "mix", "none")
"""Test engines: wait as for a GPU, compute without the interpreter lock, the same and 8 ms of Python, nothing."""
BUNDLE = "bundle"
"""In the engine's place: the graphs of a bundle."""


@dataclass(frozen=True)
class OverlapConfig:
    """What one run does; its fields travel to the ranks as JSON."""

    overlap: str = "full"
    engine: str = "sleep"
    """Of ENGINES, or BUNDLE."""
    stage_ms: float = 55.0
    """Work of each test engine, ms."""
    frame_bytes: int = 6_963_200
    """What a test engine sends per frame, bytes."""
    num_frames: int = 60
    eager_limit_bytes: int = 65_536
    address: str = "127.0.0.1"
    """Address of rank 1 on the link, for what does not go through MPI."""
    scratch: str = ""
    """Folder on rank 0's host for the journals of `measured`; whoever starts the run removes it."""
    bundle: str = ""
    """Folder of the bundle, on both hosts."""
    source: str = ""
    graph_engine: str = ""
    precision: str = ""
    wire: str = "fp16"
    threads: int = 1
    device: str = "cpu"
