"""Energy: integrals of known curves, what is not measured, and the sampler beside a run."""

import io
import json
import math
import threading
import time

import pytest
from rich.console import Console

from splitrail.bench.energy import EnergySampler, NotMeasured, energy_j, energy_report
from splitrail.bench.meters.choice import MeterChoice
from splitrail.bench.meters.meter import MeterError
from splitrail.bench.summary import summarize
from splitrail.bench.table import print_summary

S = 1_000_000_000


def sampled(curve, begin_s=0.0, end_s=10.0, period_s=0.1, jitter=0.03):
    """Sample times, ns, unevenly spaced, and the curve at them."""
    num = round((end_s - begin_s) / period_s)
    seconds = [begin_s + i * period_s + (jitter * math.sin(7 * i) if 0 < i < num else 0) for i in range(num + 1)]
    times = [round(second * S) for second in seconds]
    return times, [curve(time_ns / S) for time_ns in times]


def test_a_ramp_is_integrated_exactly_between_samples():
    times, watts = sampled(lambda s: 3 + 2 * s)
    # Integral of 3 + 2 s from 1.234 to 8.765.
    expected = 3 * (8.765 - 1.234) + 8.765**2 - 1.234**2
    assert energy_j(times, watts, "W", 1_234_000_000, 8_765_000_000) == pytest.approx(expected, rel=1e-9)


def test_a_sine_is_integrated_to_a_thousandth():
    times, watts = sampled(lambda s: 10 + 4 * math.sin(2 * math.pi * s / 2.5))
    expected = 10 * 5.3 - 4 * 2.5 / (2 * math.pi) * (
        math.cos(2 * math.pi * 6.4 / 2.5) - math.cos(2 * math.pi * 1.1 / 2.5)
    )
    assert energy_j(times, watts, "W", 1_100_000_000, 6_400_000_000) == pytest.approx(expected, rel=1e-3)


def test_uneven_samples_weigh_by_their_time():
    # 1 W for 9 s in two samples, then 101 W for 1 s in many: the plain mean of the samples would be far off.
    times = [0, 9 * S - 1, *(9 * S + i * S // 10 for i in range(11))]
    watts = [1.0, 1.0, *[101.0] * 11]
    with pytest.raises(NotMeasured, match=r"no sample for 9\.0 s"):
        energy_j(times, watts, "W", 0, 10 * S)
    times = [i * S for i in range(9)] + times[1:]
    watts = [1.0] * 9 + watts[1:]
    assert energy_j(times, watts, "W", 0, 10 * S) == pytest.approx(9 + 101, rel=1e-6)


def test_a_counter_is_read_at_the_borders():
    times, joules = sampled(lambda s: 1000 + 40 * s)
    assert energy_j(times, joules, "J", 2_050_000_000, 4_275_000_000) == pytest.approx(40 * 2.225)


def test_borders_on_samples_and_short_windows():
    times, watts = [0, S, 2 * S], [1.0, 3.0, 5.0]
    assert energy_j(times, watts, "W", 0, 2 * S) == pytest.approx(6.0)
    assert energy_j(times, watts, "W", S, 2 * S) == pytest.approx(4.0)
    assert energy_j(times, watts, "W", S // 4, S // 2) == pytest.approx(0.25 * (1.5 + 2.0) / 2)


@pytest.mark.parametrize(("begin", "end"), [(-1, S), (S, 10 * S + 1), (S, S), (2 * S, S)])
def test_what_the_samples_do_not_cover_is_not_measured(begin, end):
    times, watts = sampled(lambda s: 5)
    with pytest.raises(NotMeasured):
        energy_j(times, watts, "W", begin, end)
    with pytest.raises(NotMeasured):
        energy_j([], [], "W", 0, S)


def journal(unit="W", min_window_s=0.5, idle=True):
    """5 W of rail IN until 4 s, then 12 W; GPU 1 W, then 6 W. Idle baseline from 1 to 3 s."""
    lines = [
        {
            "e": "meter",
            "m": "m",
            "unit": unit,
            "scope": "module",
            "total": ["IN"],
            "gpu_rail": "GPU",
            "min_window_s": min_window_s,
        }
    ]
    if idle:
        lines.append({"e": "idle", "b": S, "t": 3 * S})
    energy = {"IN": 0.0, "GPU": 0.0}
    for i in range(201):
        watts = {"IN": 5.0, "GPU": 1.0} if i < 80 else {"IN": 12.0, "GPU": 6.0}
        lines.append({"e": "power", "m": "m", "t": i * S // 20, "v": watts if unit == "W" else dict(energy)})
        energy = {rail: energy[rail] + watts[rail] / 20 for rail in energy}
    return lines


@pytest.mark.parametrize("unit", ["W", "J"])
def test_joules_per_frame_with_and_without_idle(unit):
    (entry,) = energy_report(journal(unit), (5 * S, 9 * S), 100)
    assert entry["energy_j"] == pytest.approx(48.0)
    assert entry["mean_w"] == pytest.approx(12.0)
    assert entry["idle_w"] == pytest.approx(5.0)
    assert entry["j_per_frame"] == pytest.approx(0.48)
    assert entry["above_idle_j_per_frame"] == pytest.approx(0.28)
    assert entry["rails_w"] == pytest.approx({"IN": 12.0, "GPU": 6.0})
    assert entry["num_samples"] == 81


def test_without_a_baseline_only_what_is_above_it_is_missing():
    (entry,) = energy_report(journal(idle=False), (5 * S, 9 * S), 100)
    assert entry["j_per_frame"] == pytest.approx(0.48)
    assert entry["above_idle_j_per_frame"] is None
    assert entry["idle_w"] is None
    assert "baseline" in entry["idle_not_measured"]


@pytest.mark.parametrize(
    ("lines", "window", "why"),
    [
        (journal(min_window_s=5.0), (5 * S, 9 * S), "shorter than the 5 s"),
        (journal(), None, "no timed window"),
        (journal(), (5 * S, 11 * S), "do not reach"),
        ([line for line in journal() if line["e"] != "power"], (5 * S, 9 * S), "do not reach"),
        (
            [*journal()[:100], {"e": "meter_failed", "m": "m", "reason": "sensor gone"}],
            (5 * S, 9 * S),
            "sensor gone",
        ),
        ([{"e": "meter_missing", "m": "rapl", "reason": "no RAPL"}], (5 * S, 9 * S), "rapl: no RAPL"),
    ],
)
def test_what_is_missing_has_its_reason_and_no_number(lines, window, why):
    (entry,) = energy_report(lines, window, 100)
    assert why in entry["not_measured"]
    assert not [key for key, value in entry.items() if isinstance(value, float)]


def test_a_run_that_did_not_ask_has_no_entry():
    assert energy_report([{"e": "begin"}], (0, S), 10) == []


class FakeMeter:
    name, unit, scope, total, gpu_rail, min_window_s = "fake", "W", "module", ("IN",), None, 0.0

    def __init__(self, fails_after=10**9):
        self.num_reads = 0
        self.num_closed = 0
        self.fails_after = fails_after

    def read(self):
        self.num_reads += 1
        if self.num_reads > self.fails_after:
            raise MeterError("unplugged; plug it in")
        return {"IN": 7.0}

    def close(self):
        self.num_closed += 1


def run_sampler(meter, seconds):
    lines = []
    sampler = EnergySampler(
        MeterChoice((meter,), {"nvml": "no GPU"}),
        lambda name, **facts: lines.append({"e": name, **facts}),
        period_s=0.01,
    )
    sampler.start()
    sampler.idle(duration_s=0.1, settle_s=0.02)
    begin = time.monotonic_ns()
    time.sleep(seconds)
    end = time.monotonic_ns()
    sampler.stop()
    return json.loads(json.dumps(lines)), (begin, end)


def test_the_sampler_covers_the_run_from_before_to_after():
    meter = FakeMeter()
    lines, window = run_sampler(meter, 0.2)
    (entry,) = energy_report(lines, window, 4)
    assert entry["mean_w"] == pytest.approx(7.0)
    assert entry["above_idle_j_per_frame"] == pytest.approx(0.0, abs=1e-6)
    times = [line["t"] for line in lines if line["e"] == "power"]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert meter.num_closed == 1
    assert "energy" not in {thread.name for thread in threading.enumerate()}


def test_a_meter_that_dies_ends_its_samples_and_not_the_run():
    meter = FakeMeter(fails_after=5)
    lines, window = run_sampler(meter, 0.2)
    assert [line["reason"] for line in lines if line["e"] == "meter_failed"] == ["unplugged; plug it in"]
    (entry,) = energy_report(lines, window, 4)
    assert "unplugged" in entry["not_measured"]
    assert meter.num_closed == 1


def test_a_driver_that_throws_anything_does_not_end_the_run():
    meter = FakeMeter()
    meter.read = lambda: 1 / 0
    lines, window = run_sampler(meter, 0.05)
    (entry,) = energy_report(lines, window, 4)
    assert "division" in entry["not_measured"]


def test_the_terminal_says_what_was_measured_and_what_not():
    lines = []
    console = Console(width=300, file=io.StringIO())
    summary = summarize({0: [{"e": "begin", "host": "tx2"}]})
    for journal_lines in (journal(), journal(idle=False), [{"e": "meter_missing", "m": "rapl", "reason": "no RAPL"}]):
        lines += [{"host": "tx2", **entry} for entry in energy_report(journal_lines, (5 * S, 9 * S), 100)]
    print_summary({**summary, "energy": lines}, console)
    text = console.file.getvalue()
    assert "energy on tx2, module by m: 12.00 W, 0.480 J a frame, 0.280 J above the 5.00 W of idle" in text
    assert "12.00 W, 0.480 J a frame; above idle not measured, no idle baseline was taken" in text
    assert "energy on tx2: not measured, rapl: no RAPL" in text
