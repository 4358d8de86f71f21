"""What a run did over the steps of a link's rate: results per second, delay, and how long until it kept up again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..stages.target import Target
from .finished_run import FinishedRun, Output
from .link_steps import LinkStep, link_steps
from .setting_changes import names_by_frame
from .streaming_accuracy import Tick, ticks_of

WINDOW_NS = 1_000_000_000
"""A target is met again when a window of this length meets it."""
_ENOUGH = 0.93
"""Share of the target's results that a window must have: at 15 FPS 14 of 15, since a window's edges may cut one off."""

_KEPT = 0.9
"""Share of the windows until the next step that must have the rate, for it to count as kept: a few may be the machine's."""
_MAX_RECOVERY_S = 2.0
"""Within this and the drain the rate is to be back after a step."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A run between two steps of the link's rate."""

    rate: str
    begin_ns: int
    end_ns: int
    """By rank 0's clock; of the last step, when the last frame was captured."""
    fps: float
    delay_p95_ms: float | None
    """Capture to output of the results that came in this time; None for none."""
    recovery_s: float | None
    """From the step until the target was met for a whole window; None: never in this time."""
    met_share: float
    """Of the windows that begin at a result after that, those that meet the target."""
    drain_s: float
    """What was under way at the step needs so long at the new rate."""
    num_dropped: int
    """Frames captured in this time that were dropped."""
    rate_back_s: float | None = None
    """From the step until the target's rate was there and stayed, whatever the delay: of the windows from then to the next step
    nine of ten have it. None: not in this time, or the target has no rate."""
    shares: dict[str, float] = field(default_factory=dict)
    """Setting -> share of the results, for a run that adapts."""

    @property
    def is_rate_kept(self) -> bool:
        """Whether the rate was held, or back within 2 s and the drain."""
        return self.rate_back_s is not None and self.rate_back_s <= _MAX_RECOVERY_S + self.drain_s

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "rate": self.rate,
            "seconds": round((self.end_ns - self.begin_ns) / 1e9, 2),
            "fps": round(self.fps, 3),
            "delay_p95_ms": None if self.delay_p95_ms is None else round(self.delay_p95_ms, 1),
            "recovery_s": None if self.recovery_s is None else round(self.recovery_s, 2),
            "met_share": round(self.met_share, 3),
            "rate_back_s": None if self.rate_back_s is None else round(self.rate_back_s, 2),
            "rate_kept": self.is_rate_kept,
            "drain_s": round(self.drain_s, 3),
            "dropped": self.num_dropped,
            "settings": {name: round(share, 3) for name, share in self.shares.items()},
        }


def step_results(run: FinishedRun, target: Target) -> list[StepResult]:
    """One for each step of the link's rate that the run has seen."""
    steps = link_steps(run.folder)
    ticks = ticks_of(run.journals)
    if not steps or not ticks:
        return []
    ends = [step.at_ns for step in steps[1:]] + [max(ticks[-1].time_ns, steps[-1].at_ns)]
    names = names_by_frame(run)
    return [
        _step(run, target, step, end_ns, names, ticks)
        for step, end_ns in zip(steps, ends, strict=True)
        if end_ns > step.at_ns
    ]


def ticks_between(ticks: Sequence[Tick], begin_ns: int, end_ns: int) -> list[Tick]:
    """Those from `begin_ns` to before `end_ns`."""
    return [tick for tick in ticks if begin_ns <= tick.time_ns < end_ns]


def delays_ms(outputs: Sequence[Output]) -> list[float]:
    """Capture to output."""
    return [(output.output_ns - output.captured_ns) / 1e6 for output in outputs]


def _step(
    run: FinishedRun, target: Target, step: LinkStep, end_ns: int, names: dict[int, str], ticks: Sequence[Tick]
) -> StepResult:
    outputs = [output for output in run.outputs if step.at_ns <= output.output_ns < end_ns]
    under_way = sum(
        transfer.num_bytes for transfer in run.transfers if transfer.posted_ns < step.at_ns < transfer.arrived_ns
    )
    dropped = {
        line["f"] for lines in run.journals.values() for line in lines if line["e"] == "fate" and line["x"] == "dropped"
    }
    meets = _meets(target)
    windows = _windows(outputs, step.at_ns, end_ns, meets)
    recovered = next((number for number, (_, is_met) in enumerate(windows) if is_met), None)
    later = windows[recovered:] if recovered is not None else []
    counts: dict[str, int] = {}
    for output in outputs:
        if output.frame in names:
            counts[names[output.frame]] = counts.get(names[output.frame], 0) + 1
    return StepResult(
        step.rate,
        step.at_ns,
        end_ns,
        len(outputs) * 1e9 / (end_ns - step.at_ns),
        float(np.percentile(delays_ms(outputs), 95)) if outputs else None,
        None if recovered is None else (windows[recovered][0] - step.at_ns) / 1e9,
        sum(is_met for _, is_met in later) / len(later) if later else 0.0,
        8 * under_way / step.rate_bit_per_s,
        sum(tick.frame in dropped for tick in ticks_between(ticks, step.at_ns, end_ns)),
        None if target.fps is None else _rate_back_s(outputs, step.at_ns, end_ns, _meets(Target(fps=target.fps))),
        {name: count / len(outputs) for name, count in sorted(counts.items(), key=lambda item: -item[1])},
    )


def _meets(target: Target) -> Callable[[Sequence[Output]], bool]:
    """Whether the results of one window meet the target."""
    needed = 1 if target.fps is None else int(_ENOUGH * target.fps * WINDOW_NS / 1e9)
    longest_ms = math.inf if target.delay_ms is None else target.delay_ms
    return lambda window: len(window) >= max(needed, 1) and max(delays_ms(window)) <= longest_ms


def _rate_back_s(
    outputs: Sequence[Output], begin_ns: int, end_ns: int, meets: Callable[[Sequence[Output]], bool]
) -> float | None:
    windows = _windows(outputs, begin_ns, end_ns, meets)
    kept = np.cumsum([is_met for _, is_met in reversed(windows)])[::-1]
    for number, (start_ns, is_met) in enumerate(windows):
        if is_met and kept[number] >= _KEPT * (len(windows) - number):
            return (start_ns - begin_ns) / 1e9
    return None


def _windows(
    outputs: Sequence[Output], begin_ns: int, end_ns: int, meets: Callable[[Sequence[Output]], bool]
) -> list[tuple[int, bool]]:
    """Where each whole window begins, at the step or at a result, and whether it meets the target."""
    starts = [begin_ns, *(output.output_ns for output in outputs)]
    return [
        (start_ns, meets([output for output in outputs if start_ns <= output.output_ns < start_ns + WINDOW_NS]))
        for start_ns in starts
        if start_ns + WINDOW_NS <= end_ns
    ]
