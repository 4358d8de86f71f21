"""Energy of a host: meters sampled on real timestamps beside a run, integrated afterwards from its journal.

    {"e": "meter", "m": ..., "unit": "W" | "J", "scope": ..., "total": [rails], "gpu_rail": ..., "min_window_s": ...}
    {"e": "meter_missing", "m": ..., "reason": ...}          this host has none of this kind
    {"e": "meter_failed", "m": ..., "reason": ...}           it stopped answering
    {"e": "idle", "b": begin, "t": end}                      the ranks kept still
    {"e": "power", "m": meter, "t": when, "v": {rail: watts or joules}}

    energy over a window    W: trapezoids through the samples    J: the counter's difference; both interpolated at its borders
    above idle              energy - idle power x length of the window

A value that cannot be had is "not measured" with its reason, never 0.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..pipeline.clock import now_ns
from ..pipeline.errors import SplitrailError
from .intervals import Span
from .meters.choice import MeterChoice
from .meters.meter import Unit

PERIOD_S = 0.1
IDLE_S = 3.0
"""Length of the idle baseline, s."""
SETTLE_S = 1.2
"""Before the baseline: what a 1 s average still remembers of the start-up, s."""
_MAX_GAP_S = 2.0
"""Longest time without a sample over which a line may be drawn, s."""


_STOP_S = 5.0


class NotMeasured(SplitrailError):
    """There is no such value; the text says why."""


class EnergySampler:
    """Reads meters in a thread of its own and hands each sample to `event` (a journal's)."""

    def __init__(self, choice: MeterChoice, event: Callable[..., None], period_s: float = PERIOD_S) -> None:
        self._meters = list(choice.meters)
        self._event = event
        self._period_s = period_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        for name, reason in choice.missing.items():
            event("meter_missing", m=name, reason=reason)
        for meter in self._meters:
            event(
                "meter",
                m=meter.name,
                unit=meter.unit,
                scope=meter.scope,
                total=list(meter.total),
                gpu_rail=meter.gpu_rail,
                min_window_s=meter.min_window_s,
            )

    def start(self) -> None:
        """Take the first sample, then one each period."""
        self._sample()
        self._thread.start()

    def idle(self, duration_s: float = IDLE_S, settle_s: float = SETTLE_S) -> None:
        """Wait and call it the idle baseline; nothing else may be at work on this machine meanwhile."""
        time.sleep(settle_s)
        begin = now_ns()
        time.sleep(duration_s)
        self._event("idle", b=begin, t=now_ns())

    def stop(self) -> None:
        """Take the last sample and close the meters."""
        self._stopped.set()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            return  # a meter hangs; the run must not
        self._sample()
        while self._meters:
            self._meters.pop().close()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            # A sample that was late is not made up for: samples carry their own times.
            due = max(due + self._period_s, time.monotonic())
            if self._stopped.wait(due - time.monotonic()):
                return
            self._sample()

    def _sample(self) -> None:
        for meter in list(self._meters):
            begin = now_ns()
            try:
                values = {rail: round(value, 6) for rail, value in meter.read().items()}
            except Exception as error:  # whatever a driver's library throws, a run does not end by it
                self._event("meter_failed", m=meter.name, reason=str(error))
                self._meters.remove(meter)
                meter.close()
            else:
                self._event("power", m=meter.name, t=(begin + now_ns()) // 2, v=values)


def energy_j(times_ns: Sequence[int], values: Sequence[float], unit: Unit, begin_ns: int, end_ns: int) -> float:
    """Energy of one rail over a window, joules. `values` are watts or a counter of joules, by `unit`, at `times_ns`, ascending.

    Raises NotMeasured where the samples do not reach over the window, or leave a gap in it.
    """
    if end_ns <= begin_ns:
        raise NotMeasured("the window is empty")
    if not times_ns or times_ns[0] > begin_ns or times_ns[-1] < end_ns:
        raise NotMeasured("the samples do not reach over the window")
    first, last = bisect_right(times_ns, begin_ns) - 1, bisect_left(times_ns, end_ns)
    gap_s = max(times_ns[i + 1] - times_ns[i] for i in range(first, last)) / 1e9
    if gap_s > _MAX_GAP_S:
        raise NotMeasured(f"no sample for {gap_s:.1f} s")

    def at(time_ns: int, low: int) -> float:
        span = times_ns[low + 1] - times_ns[low]
        return values[low] + (values[low + 1] - values[low]) * (time_ns - times_ns[low]) / span

    at_begin, at_end = at(begin_ns, first), at(end_ns, last - 1)
    if unit == "J":
        return at_end - at_begin
    inner = range(first + 1, last)
    times = [begin_ns, *(times_ns[i] for i in inner), end_ns]
    watts = [at_begin, *(values[i] for i in inner), at_end]
    return sum((watts[i] + watts[i + 1]) / 2 * (times[i + 1] - times[i]) for i in range(len(times) - 1)) / 1e9


def energy_report(lines: Sequence[Mapping[str, Any]], window: Span | None, num_frames: int) -> list[dict[str, Any]]:
    """What one rank's journal tells of energy, an entry per meter, as JSON values; empty where nobody asked for any.

    `window` is the timed one, by this rank's clock, and `num_frames` the results in it. `idle_w` and
    `above_idle_j_per_frame` are None where the baseline is missing: `idle_not_measured` says why.
    """
    meters = [line for line in lines if line["e"] == "meter"]
    missing = {line["m"]: line["reason"] for line in lines if line["e"] == "meter_missing"}
    if not meters:
        reason = "; ".join(f"{name}: {why}" for name, why in missing.items())
        return [{"not_measured": reason}] if missing else []
    return [_of_meter(meter, lines, window, num_frames) for meter in meters]


def _of_meter(
    meter: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], window: Span | None, num_frames: int
) -> dict[str, Any]:
    entry: dict[str, Any] = {"meter": meter["m"], **{key: meter[key] for key in ("scope", "total", "gpu_rail")}}
    samples = [line for line in lines if line["e"] == "power" and line["m"] == meter["m"]]
    times = [line["t"] for line in samples]
    failed = next((line["reason"] for line in lines if line["e"] == "meter_failed" and line["m"] == meter["m"]), None)

    def mean_w(rail: str, span: Span) -> float:
        length_s = (span[1] - span[0]) / 1e9
        if length_s < meter["min_window_s"]:
            raise NotMeasured(
                f"the window of {length_s:.2f} s is shorter than the {meter['min_window_s']:g} s it needs"
            )
        return energy_j(times, [line["v"][rail] for line in samples], meter["unit"], *span) / length_s

    try:
        if window is None or num_frames < 1:
            raise NotMeasured("there is no timed window: too few results")
        rails = {rail: mean_w(rail, window) for rail in (samples[0]["v"] if samples else meter["total"])}
        total_w = sum(rails[rail] for rail in meter["total"])
    except NotMeasured as error:
        return {**entry, "not_measured": failed or str(error)}
    window_s = (window[1] - window[0]) / 1e9
    idle = next((line for line in lines if line["e"] == "idle"), None)
    idle_w: float | None = None
    why = None
    try:
        if idle is None:
            raise NotMeasured("no idle baseline was taken")
        idle_w = sum(mean_w(rail, (idle["b"], idle["t"])) for rail in meter["total"])
    except NotMeasured as error:
        why = str(error)
    return {
        **entry,
        "window_s": round(window_s, 3),
        "num_frames": num_frames,
        "num_samples": len([t for t in times if window[0] <= t <= window[1]]),
        "mean_w": round(total_w, 4),
        "idle_w": None if idle_w is None else round(idle_w, 4),
        "idle_not_measured": why,
        "energy_j": round(total_w * window_s, 4),
        "j_per_frame": round(total_w * window_s / num_frames, 6),
        "above_idle_j_per_frame": None if idle_w is None else round((total_w - idle_w) * window_s / num_frames, 6),
        "rails_w": {rail: round(watts, 4) for rail, watts in rails.items()},
    }
