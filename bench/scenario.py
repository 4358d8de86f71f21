"""How frames arrive, in the words of MLPerf inference, and what a row of that kind is judged by.

| scenario        | the source                                         | the metric                                      |
|-----------------|----------------------------------------------------|-------------------------------------------------|
| `single-stream` | captures a frame when the one before has its result | 90th percentile of the capture-to-output delay |
| `offline`       | gives all frames as fast as they are taken          | throughput                                     |
| `camera`        | has a fixed rate; the newest frame replaces a waiting one | median age of a result when it comes, and drops |

The first two are MLPerf's (Reddi et al. 2020, "MLPerf Inference Benchmark", table 1); `camera` is its server with the regular
arrivals that a camera has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from .finished_run import FinishedRun
from .percentile import MIN_COUNTS

Scenario = Literal["single-stream", "offline", "camera"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
_SINGLE_STREAM_PERCENTILE = 90


@dataclass(frozen=True, slots=True)
class Metric:
    """What a scenario is judged by, over the results after the warm-up."""

    name: str
    unit: str
    value: float | None
    note: str = ""
    """Why there is no value; for a camera, what else belongs to it."""


def run_options(scenario: Scenario) -> dict[str, Any]:
    """Keys of the run's configuration that make its source arrive in this way; a camera's rate comes beside them."""
    if scenario == "single-stream":
        return {"policy": "wait", "single_stream": True}
    return {"policy": "wait" if scenario == "offline" else "drop-oldest"}


def metric_of(scenario: Scenario, run: FinishedRun) -> Metric:
    """The scenario's own metric of a run."""
    delays = steady_delays_ms(run)
    if scenario == "offline":
        return Metric("throughput", "FPS", run.summary["fps"], "" if run.summary["fps"] else "fewer than two results")
    if scenario == "single-stream":
        name = f"delay p{_SINGLE_STREAM_PERCENTILE}"
        value = percentile(delays, _SINGLE_STREAM_PERCENTILE)
        needed = MIN_COUNTS[_SINGLE_STREAM_PERCENTILE]
        return Metric(
            name, "ms", value, "" if value is not None else f"it needs {needed} results and there are {len(delays)}"
        )
    return Metric(
        "age of a result, median",
        "ms",
        percentile(delays, 50),
        f"{100 * dropped_share(run.summary['counts']):.1f} % of the frames dropped",
    )


def steady_delays_ms(run: FinishedRun) -> list[float]:
    """Capture to output of the results after the warm-up."""
    return [(output.output_ns - output.captured_ns) / 1e6 for output in run.steady]


def percentile(values: list[float], which: float) -> float | None:
    """None where the count does not allow it (`MIN_COUNTS`)."""
    return float(np.percentile(values, which)) if len(values) >= MIN_COUNTS[which] else None


def dropped_share(counts: Mapping[str, int]) -> float:
    """Dropped of captured frames, 0 to 1."""
    return counts["dropped"] / counts["captured"] if counts["captured"] else 0.0
