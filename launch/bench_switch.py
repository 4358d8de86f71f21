"""`splitrail bench switch`: what it costs to do each frame in another way than the one before.

The lanes of an adaptive run in one thread, so that nothing overlaps and every microsecond shows. Each setting has three frames
in a row: the first follows another setting, the others do not. The first is compared with the mean of its own two followers,
so what changes more slowly than three frames, such as the clock of the processor, does not count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
_IN_A_ROW = 3
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class SwitchBench:
    """What to measure. Raises ConfigError for no round, or a bundle of one setting."""

    bundle: str
    repeats: int = 200
    engine: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError("--repeats must be at least 1")

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
        times_ms = np.concatenate(
            [_round(lanes, packet, order) for order in _orders(len(run.settings), self.repeats + 1)]
        )
        for lane in lanes:
            lane.close()
        times_ms = times_ms[len(run.settings) :]  # the first round loads and warms
        stayed_ms = times_ms[:, 1:].mean(axis=1)
        costs = np.sort(times_ms[:, 0] / stayed_ms - 1)
        low, high = median_interval(len(costs))
        frame_ms = float(np.median(stayed_ms))
        decision_ms = _decision_ms(run)
        return {
            "bundle": str(folder),
            "settings": [setting.name for setting in run.settings],
            "num_switches": len(costs),
            "frame_ms": round(frame_ms, 3),
            "switch_cost": round(float(np.median(costs)), 5),
            "switch_cost_interval": [round(float(costs[low]), 5), round(float(costs[high]), 5)],
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
    """As a sentence."""
    low, high = result["switch_cost_interval"]
    console.print(
        f"{len(result['settings'])} settings, {result['num_switches']} switches: a frame takes {result['frame_ms']:.2f} ms, "
        f"and one that follows another setting {100 * result['switch_cost']:+.2f} % (median; 95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f} %); a decision {1e3 * result['decision_ms']:.0f} us, "
        f"{100 * result['decision_cost']:.2f} % of a frame",
        soft_wrap=True,
        highlight=False,
    )


def median_interval(num: int) -> tuple[int, int]:
    """Indices into `num` sorted values between which their median lies with 95 %: order statistics, normal approximation."""
    half = _TWO_SIDED_95 * math.sqrt(num) / 2
    return max(0, math.floor((num - 1) / 2 - half)), min(num - 1, math.ceil((num - 1) / 2 + half))


def _golden(bundle: Bundle, folder: Path) -> Callable[[int], Packet]:
    frame = bundle.golden_frames(folder)[0]
    height, width = (int(side) for side in frame["valid_size"])

    def packet(setting: int) -> Packet:
        tensors = {"pixels": frame["pixels"]}
        return Packet(0, 0, 0, (height, width), (height, width), tensors=tensors, setting=setting)

    return packet


def _orders(num: int, repeats: int) -> list[list[int]]:
    """So many rounds of all settings, the same in every run; none follows itself."""
    if num < 2:
        raise ConfigError(
            "a bundle of one setting has nothing to switch between; give one with several widths or wires"
        )
    random = np.random.default_rng(0)
    orders: list[list[int]] = []
    for _ in range(repeats):
        order = [int(setting) for setting in random.permutation(num)]
        if orders and orders[-1][-1] == order[0]:
            order.reverse()
        orders.append(order)
    return orders


def _round(lanes: Sequence[Switch], packet: Callable[[int], Packet], order: Sequence[int]) -> np.ndarray:
    """Three frames of each of these settings in turn, ms [len(order), 3]. Raises ConfigError: a frame fails."""
    times = np.empty((len(order), _IN_A_ROW))
    for row, setting in enumerate(order):
        for number in range(_IN_A_ROW):
            frame = packet(setting)
            begin = now_ns()
            for lane in lanes:
                lane.process(frame)
            times[row, number] = (now_ns() - begin) / 1e6
            if frame.kind is Kind.FAILED:
                raise ConfigError(f"the bundle's golden frame fails: {frame.reason}; export the bundle again")
    return times


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
