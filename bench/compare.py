"""What changed between two sets of runs, and whether by more than their spread.

    difference = median over B / median over A - 1    (throughput: of the mean interval between results)
    interval   = 95 % of the differences of 1000 bootstrap resamples (Efron 1979)

A resample draws runs with replacement where a side has repeats, and in each run blocks of consecutive frames (moving blocks,
Kuensch 1989): frames that follow each other are alike, and single frames drawn one by one would feign certainty. With one run
on each side the interval knows nothing of how much repeats differ, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .finished_run import FinishedRun

NUM_RESAMPLES = 1000
MIN_FRAMES = 30
"""Fewer are not compared."""
_MAX_DRAWN = 2000
"""Frames drawn of a longer run in each resample: its spread is then overstated, never understated."""
_CHANGING = ("command", "load_1min", "temperatures_c", "throttling", "clocks_mhz")
"""Of the environment, what differs between any two runs."""

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """One quantity on both sides."""

    name: str
    unit: str
    a: float | None
    b: float | None
    low: float | None
    """Relative difference, lower end of its 95 % interval; None where it could not be judged."""
    high: float | None
    verdict: Literal["more", "less", "within the spread", "not measured", "too few frames"]
    """Of B against A."""

    @property
    def difference(self) -> float | None:
        """B / A - 1."""
        return self.b / self.a - 1 if self.a and self.b is not None else None


def compare_runs(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> list[Change]:
    """Throughput, delay, and every stage and crossing that both sides have. Each side is one run or its repeats."""
    changes = [_compare("throughput", "FPS", [_intervals(run) for run in a], [_intervals(run) for run in b], _rate)]
    changes.append(
        _compare("capture to output", "ms", [_delays(run) for run in a], [_delays(run) for run in b], _median)
    )
    services = [_services(run) for run in a], [_services(run) for run in b]
    for name in dict.fromkeys(name for side in services for run in side for name in run):
        sides = [[run[name] for run in side if name in run] for side in services]
        if all(sides):
            changes.append(_compare(name, "ms", sides[0], sides[1], _median))
    return changes


def changed_settings(a: FinishedRun, b: FinishedRun) -> list[tuple[str, str, str]]:
    """(what, on A, on B) for every setting, version and host that differs."""
    facts = _circumstances(a), _circumstances(b)
    keys = dict.fromkeys([*facts[0], *facts[1]])
    return [
        (key, facts[0].get(key, "none"), facts[1].get(key, "none"))
        for key in keys
        if facts[0].get(key) != facts[1].get(key)
    ]


def _compare(
    name: str, unit: str, a: list[Samples], b: list[Samples], statistic: Callable[[Samples], Samples]
) -> Change:
    a, b = [run for run in a if len(run)], [run for run in b if len(run)]
    if not a or not b:
        return Change(name, unit, _whole(a, statistic), _whole(b, statistic), None, None, "not measured")
    value_a, value_b = _whole(a, statistic), _whole(b, statistic)
    if min(sum(map(len, a)), sum(map(len, b))) < MIN_FRAMES:
        return Change(name, unit, value_a, value_b, None, None, "too few frames")
    random = np.random.default_rng(0)
    ratios = _resample(b, statistic, random) / _resample(a, statistic, random) - 1
    low, high = (float(edge) for edge in np.percentile(ratios, (2.5, 97.5)))
    verdict: Literal["more", "less", "within the spread"] = "within the spread"
    if low > 0 or high < 0:
        verdict = "more" if low > 0 else "less"
    return Change(name, unit, value_a, value_b, low, high, verdict)


def _whole(runs: list[Samples], statistic: Callable[[Samples], Samples]) -> float | None:
    """Median over runs of the statistic of each."""
    return float(np.median([statistic(run[None])[0] for run in runs])) if runs else None


def _resample(runs: list[Samples], statistic: Callable[[Samples], Samples], random: np.random.Generator) -> Samples:
    """[NUM_RESAMPLES]: median over drawn runs of the statistic of drawn blocks."""
    by_run = np.stack([_resample_run(run, statistic, random) for run in runs])
    drawn = random.integers(len(runs), size=(len(runs), NUM_RESAMPLES))
    return np.asarray(np.median(np.take_along_axis(by_run, drawn, axis=0), axis=0))


def _resample_run(run: Samples, statistic: Callable[[Samples], Samples], random: np.random.Generator) -> Samples:
    # The usual length of a block; it grows with the run more slowly than the number of blocks.
    block = max(1, round(len(run) ** (1 / 3)))
    num_blocks = -(-min(len(run), _MAX_DRAWN) // block)
    starts = random.integers(len(run) - block + 1, size=(NUM_RESAMPLES, num_blocks, 1))
    return statistic(run[(starts + np.arange(block)).reshape(NUM_RESAMPLES, -1)])


def _median(samples: Samples) -> Samples:
    return np.asarray(np.median(samples, axis=-1))


def _rate(samples: Samples) -> Samples:
    """FPS from intervals between results, ms."""
    return np.asarray(1000 / samples.mean(axis=-1))


def _intervals(run: FinishedRun) -> Samples:
    return np.diff([output.output_ns for output in run.steady]) / 1e6


def _delays(run: FinishedRun) -> Samples:
    return np.array([(output.output_ns - output.captured_ns) / 1e6 for output in run.steady])


def _services(run: FinishedRun) -> dict[str, Samples]:
    """Service times and crossings of the steady frames, ms, by name."""
    frames = {output.frame for output in run.steady}
    found: dict[str, list[float]] = {}
    for work in run.work:
        if work.frame in frames:
            found.setdefault(f"service {work.stage}", []).append((work.end_ns - work.begin_ns) / 1e6)
    for transfer in run.transfers:
        if transfer.frame in frames and not transfer.is_empty:
            on_link = (transfer.arrived_ns - transfer.on_wire_ns) / 1e6
            found.setdefault(f"on the link {transfer.edge}", []).append(on_link)
    return {name: np.array(times) for name, times in found.items()}


def _circumstances(run: FinishedRun) -> dict[str, str]:
    facts = dict(run.settings)
    for rank in run.ranks:
        begin = run.begins[rank]
        facts[f"host of rank {rank}"] = str(begin.get("host"))
        for key, value in (begin.get("environment") or {}).items():
            parts = {f"{key} {part}": one for part, one in value.items()} if isinstance(value, dict) else {key: value}
            if key not in _CHANGING:
                facts |= {f"{name} on rank {rank}": str(one) for name, one in parts.items() if one is not None}
    first = next((begin for begin in run.begins.values() if begin.get("bundle")), {})
    if first:
        facts["bundle checksum"] = str(first["bundle"])[:12]
    if run.summary["error"]:
        facts["error"] = str(run.summary["error"])
    return facts
