"""`splitrail bench switch`: what it costs to do each frame in another way than the one before.

The lanes of an adaptive run in one thread, so that nothing overlaps and every microsecond shows: as many frames of each setting
in one go, and the same frames with another setting after every one. Rounds of both take turns; their ratio is what it costs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..pipeline.clock import now_ns
from ..pipeline.errors import ConfigError
from ..pipeline.observer import NullObserver
from ..pipeline.packet import Kind, Packet
from ..pipeline.switch import Switch
from ..stages.bundle import Bundle
from ..stages.cache import cache_folder
from ..stages.engine_choice import check_engine, choose_engine
from ..stages.engines.registry import open_engine
from ..stages.neural_filter import open_filter
from ..stages.observed import Observed
from ..stages.policy import open_policy
from ..stages.postprocess import open_postprocess
from ..stages.target import Target
from . import workshop  # noqa: F401  registers the engines that a run knows
from .adaptation import Adaptation
from .assemble import Run
from .config import RunConfig, bundle_folder

_NUM_DECISIONS = 2000


@dataclass(frozen=True)
class SwitchBench:
    """What to measure. Raises ConfigError for too few frames."""

    bundle: str
    num_frames: int = 10
    repeats: int = 41
    engine: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.num_frames < 5 or self.repeats < 1:
            raise ConfigError("--num-frames must be at least 5 and --repeats at least 1")

    def run(self) -> dict[str, Any]:
        """Times of both orders and their ratio, and the time of a decision, as JSON values."""
        folder = bundle_folder(self.bundle)
        bundle = Bundle.load(folder)
        config = RunConfig.check(
            {
                "source": {"uri": "golden"},
                "out": "out",
                "bundle": str(folder),
                "placement": "split",
                "adapt": {"target_fps": 15},
            },
            "the bench",
        )
        run = Run.plan(config, config.resolve_placement(), bundle)
        lanes = self._lanes(config, run, folder, bundle)
        packet = _golden(bundle, folder)
        settings = range(len(run.settings))
        in_one_go = [setting for setting in settings for _ in range(self.num_frames)]
        in_turns = [setting for _ in range(self.num_frames) for setting in settings]
        _stream(lanes, packet, in_turns[: 2 * len(run.settings)])
        ratios, times_ms = [], []
        for _ in range(self.repeats):
            together_ns, apart_ns = _stream(lanes, packet, in_one_go), _stream(lanes, packet, in_turns)
            ratios.append(apart_ns / together_ns)
            times_ms.append(together_ns / len(in_one_go) / 1e6)
        for lane in lanes:
            lane.close()
        frame_ms = statistics.median(times_ms)
        decision_ms = _decision_ms(run)
        return {
            "bundle": str(folder),
            "settings": [setting.name for setting in run.settings],
            "num_frames": len(in_turns),
            "repeats": self.repeats,
            "frame_ms": round(frame_ms, 3),
            "switch_cost": round(statistics.median(ratios) - 1, 5),
            "switch_cost_spread": [round(min(ratios) - 1, 5), round(max(ratios) - 1, 5)],
            "decision_ms": round(decision_ms, 4),
            "decision_cost": round(decision_ms / frame_ms, 5),
        }

    def _lanes(self, config: RunConfig, run: Run, folder: Path, bundle: Bundle) -> list[Switch]:
        name, _, precision = self.engine.partition(":")
        cores = os.cpu_count() or 1
        choice = (
            choose_engine(folder, bundle, threads=cores, cache=cache_folder())
            if name == "auto"
            else check_engine(folder, bundle, name, precision or "fp32", threads=cores, cache=cache_folder())
        )
        assert config.adapt is not None
        ranks = [
            Adaptation(
                run,
                rank,
                config.adapt,
                folder,
                NullObserver(),
                open_graph=lambda view, number, outputs: open_engine(
                    choice.engine, choice.precision, folder, view, number, outputs, self.threads
                ),
                open_filter=lambda: open_filter(folder, bundle, choice.engine, self.threads, threshold=0.0),
                open_postprocess=lambda: open_postprocess(bundle.postprocess),
                is_live=False,
                knows_age=True,
            )
            for rank in (run.lanes[run.cut].rank, run.lanes[run.cut + 1].rank)
        ]
        lanes = [rank.switch(index) for index in range(run.cut, run.cut + 3) for rank in ranks]
        return [lane for lane in lanes if lane is not None]


def print_switch(result: dict[str, Any], console: Console) -> None:
    """As sentences."""
    low, high = result["switch_cost_spread"]
    console.print(
        f"{len(result['settings'])} settings, {result['num_frames']} frames, {result['repeats']} rounds: a frame takes "
        f"{result['frame_ms']:.2f} ms; another setting for every frame costs {100 * result['switch_cost']:+.2f} % "
        f"({100 * low:+.2f} to {100 * high:+.2f} %), a decision {1e3 * result['decision_ms']:.0f} us, "
        f"{100 * result['decision_cost']:.2f} % of a frame",
        soft_wrap=True,
        highlight=False,
    )


def _golden(bundle: Bundle, folder: Path) -> Callable[[int], Packet]:
    frame = bundle.golden_frames(folder)[0]
    height, width = (int(side) for side in frame["valid_size"])

    def packet(setting: int) -> Packet:
        tensors = {"pixels": frame["pixels"]}
        return Packet(0, 0, 0, (height, width), (height, width), tensors=tensors, setting=setting)

    return packet


def _stream(lanes: Sequence[Switch], packet: Callable[[int], Packet], settings: Sequence[int]) -> int:
    """Do a frame with each of these settings, one after the other; ns. Raises ConfigError: a frame fails."""
    begin = now_ns()
    for setting in settings:
        frame = packet(setting)
        for lane in lanes:
            lane.process(frame)
        if frame.kind is Kind.FAILED:
            raise ConfigError(f"the bundle's golden frame fails: {frame.reason}; export the bundle again")
    return now_ns() - begin


def _decision_ms(run: Run) -> float:
    """Mean time in which the model chooses."""
    num = len(run.settings)
    policy = open_policy("model", run.settings, Target(fps=15.0))
    sizes = tuple(setting.bytes_per_frame or 0.0 for setting in run.settings)
    begin = now_ns()
    for number in range(_NUM_DECISIONS):
        seen = Observed(number * 66_000_000, 1e6, 2e-3, 0, 0.0, sizes, (0.01,) * num, (0.01,) * num, 0, 0.01, 1 / 15)
        policy.choose(seen, 0)
    return (now_ns() - begin) / _NUM_DECISIONS / 1e6
