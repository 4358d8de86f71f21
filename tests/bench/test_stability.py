"""When a run counts as settled, and how many values a percentile needs."""

import math
import random
from itertools import accumulate

import pytest

from splitrail.bench.percentile import MIN_COUNTS, percentiles
from splitrail.bench.stability import judge_stability

MS = 1_000_000


def times(intervals_ms):
    return [0, *accumulate(round(value * MS) for value in intervals_ms)]


def test_an_even_run_is_stable():
    verdict = judge_stability(times([40] * 60), [55.0] * 61)
    assert verdict.stable
    assert verdict.reason == ""
    assert [(window.num, window.fps, window.p50_ms) for window in verdict.windows] == [(12, 25.0, 55.0)] * 3


@pytest.mark.parametrize(("slower", "stable"), [(1.09, True), (1.11, False)])
def test_the_rate_of_the_last_windows_decides(slower, stable):
    verdict = judge_stability(times([40] * 80 + [40 * slower] * 20), [55.0] * 101)
    assert verdict.stable is stable
    assert stable or "rate" in verdict.reason


@pytest.mark.parametrize(("last", "stable"), [(109.0, True), (111.0, False)])
def test_a_delay_that_grows_is_not_stable_at_a_steady_rate(last, stable):
    verdict = judge_stability(times([40] * 100), [100.0] * 81 + [last] * 20)
    assert verdict.stable is stable
    assert stable or "delay" in verdict.reason


def test_a_slow_start_is_forgiven():
    assert judge_stability(times([400] * 40 + [40] * 60), [900.0] * 41 + [50.0] * 60).stable


def test_too_few_results_are_not_stable():
    verdict = judge_stability(times([40] * 29), [55.0] * 30)
    assert not verdict.stable
    assert "31 are needed" in verdict.reason
    assert verdict.windows == ()
    assert judge_stability(times([40] * 30), [55.0] * 31).stable
    assert not judge_stability([], []).stable


def test_rate_alone_is_judged_where_delays_are_unknown():
    verdict = judge_stability(times([40] * 60), None)
    assert verdict.stable
    assert verdict.windows[0].p50_ms is None


def alternating(delay_of, num=200, seed=0):
    """One frame at a time, some of them at random empty: when each came, its delay, whether it is empty."""
    are_empty = [random.Random(seed + index).random() < 0.4 for index in range(num)]
    delays = [10.0 if empty else delay_of(index) for index, empty in enumerate(are_empty)]
    return times(delays)[1:], delays, are_empty


def test_empty_frames_do_not_make_a_run_unstable():
    runs = [alternating(lambda index: 50.0, seed=1000 * seed) for seed in range(5)]
    assert not all(judge_stability(came, delays).stable for came, delays, _ in runs)
    for came, delays, are_empty in runs:
        verdict = judge_stability(came, delays, are_empty)
        assert verdict.stable, verdict.reason
        assert [(window.fps, window.p50_ms) for window in verdict.windows] == [(pytest.approx(20.0), 50.0)] * 3


@pytest.mark.parametrize("seed", range(5))
def test_done_frames_that_get_slower_between_empty_ones_are_not_stable(seed):
    came, delays, are_empty = alternating(lambda index: 50.0 + 30.0 * (index > 160), seed=1000 * seed)
    verdict = judge_stability(came, delays, are_empty)
    assert not verdict.stable
    assert "rate" in verdict.reason
    assert "delay" in verdict.reason


def test_done_frames_that_never_follow_each_other_are_judged_by_their_delays():
    are_empty = [index % 2 == 1 for index in range(100)]
    came = times([40] * 99)
    assert judge_stability(came, [10.0 if empty else 55.0 for empty in are_empty], are_empty).stable
    slower = [10.0 if empty else 55.0 + (index > 80) * 10 for index, empty in enumerate(are_empty)]
    assert "delay" in judge_stability(came, slower, are_empty).reason
    assert not judge_stability(came, None, are_empty).stable


def test_there_must_be_enough_done_frames_unless_all_are_empty():
    are_empty = [index % 4 > 0 for index in range(100)]
    verdict = judge_stability(times([40] * 99), [55.0] * 100, are_empty)
    assert "25 done frames after the warm-up, 31 are needed" in verdict.reason
    assert judge_stability(times([40] * 99), [10.0] * 100, [True] * 100).stable


@pytest.mark.parametrize("percentile", [90, 95, 99, 99.9])
def test_a_percentile_needs_two_values_above_it_with_99_percent_confidence(percentile):
    p = percentile / 100

    def confidence(n):
        return 1 - math.exp(n * math.log(p)) - n * (1 - p) * math.exp((n - 1) * math.log(p))

    assert confidence(MIN_COUNTS[percentile]) >= 0.99 > confidence(MIN_COUNTS[percentile] - 1)


def test_percentiles_that_are_asked_for_carry_their_count():
    found = percentiles([float(value) for value in range(1, 101)], (50, 90, 99.9))
    assert found == {"num": 100, "p50_ms": 50.5, "p90_ms": 90.1, "p99.9_ms": 99.901, "weak": ["p99.9"]}
