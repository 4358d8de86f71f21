"""Policies over simulated links: each step of the rate, no turns on a noisy one, targets that nothing reaches."""

import itertools

import numpy as np
import pytest
from adapt_simulation import LADDER, MS, S, fps_between, simulate, steps

from splitrail.pipeline.errors import ConfigError
from splitrail.stages.climb import Climb
from splitrail.stages.hold import Hold
from splitrail.stages.policy import open_policy
from splitrail.stages.target import Target

TRACE = steps((100e6, 0), (8e6, 10), (2e6, 20), (20e6, 30), (100e6, 40))


def changes(results):
    """(frame, setting) where the setting is another than that of the frame before."""
    return [(b.frame, b.setting) for a, b in itertools.pairwise(results) if a.setting != b.setting]


def setting_at(results, second):
    return [r.setting for r in results if r.picked_ns <= S + second * S][-1]


@pytest.mark.parametrize("policy", ["model", "step"])
def test_the_target_is_held_or_regained_at_every_step(policy, monkeypatch):
    results, _, _, missed = simulate(policy, rate=TRACE, seconds=50, monkeypatch=monkeypatch)
    drains_s = {10: 80_000 * 2 * 8 / 8e6, 20: 80_000 * 8 / 2e6, 30: 0.0, 40: 0.0}
    for begin, drain_s in drains_s.items():
        allowed_s = 2 + drain_s
        assert fps_between(results, begin + allowed_s, begin + 10) >= 14.5, (begin, policy)
    assert fps_between(results, 1, 10) >= 14.5
    assert not missed
    # 5 kB at 15 FPS take 0.6 Mbit/s of 2, 20 kB 2.4.
    assert LADDER[setting_at(results, 29.9)].bytes_per_frame <= 10_000
    # All of 100 Mbit/s is there: the best setting is worked at, before the first step and at the end.
    assert setting_at(results, 9.9) == setting_at(results, 49.9) == 0


def test_the_model_takes_the_most_accurate_setting_that_fits(monkeypatch):
    results, _, _, _ = simulate(rate=lambda ns: 8e6, seconds=15, monkeypatch=monkeypatch)
    # At 15 FPS and 8 Mbit/s 66.7 kB fit; with a margin, 40 kB.
    assert setting_at(results, 14) == 1
    results, _, _, _ = simulate(rate=lambda ns: 3.3e6, seconds=15, monkeypatch=monkeypatch)
    assert setting_at(results, 14) == 2


@pytest.mark.parametrize("policy", ["model", "step"])
@pytest.mark.parametrize("rate", [9.7e6, 4.9e6, 2.45e6, 1.3e6])
def test_a_noisy_constant_link_between_two_settings_brings_no_turns(policy, rate, monkeypatch):
    """The link carries just what one setting needs: the worst place to be."""
    noise = np.random.default_rng(3).uniform(0.8, 1.2, 100_000)
    results, _, _, _ = simulate(
        policy,
        rate=lambda ns: rate * noise[int(ns // (50 * MS)) % 100_000],
        seconds=60,
        jitter_ms=5,
        edge_jitter=0.2,
        monkeypatch=monkeypatch,
    )
    late = [change for change in changes(results) if change[0] > 15 * 10]
    # Tries get rarer: 2, 4, 8, 16, 32 s after one that failed, and each is two changes.
    assert len(late) <= 10, late
    assert fps_between(results, 10, 60) >= 14


def test_a_busy_edge_is_seen_by_its_service_times(monkeypatch):
    """Twice as slow as measured before the run: the narrow settings keep up, the wide do not."""
    measured = lambda setting: (60.0, 60.0, 25.0, 20.0, 20.0)[setting]  # noqa: E731
    results, _, _, _ = simulate(
        edge_ms=lambda setting: 2 * measured(setting), measured_edge_ms=measured, seconds=20, monkeypatch=monkeypatch
    )
    assert setting_at(results, 10) == 2
    assert fps_between(results, 5, 20) >= 14.5


def test_a_target_that_nothing_reaches_is_told_once_and_the_best_is_done(monkeypatch):
    results, events, _, missed = simulate(rate=lambda ns: 0.3e6, seconds=30, monkeypatch=monkeypatch)
    assert len(missed) == 1
    assert "Mbit/s" in missed[0]
    assert len(events.of("target_missed")) == 1
    assert setting_at(results, 29) == 4  # the smallest
    assert fps_between(results, 10, 30) == pytest.approx(0.3e6 / 8 / 5_320, rel=0.1)


def test_an_edge_that_is_too_slow_for_any_setting_runs_the_most_accurate(monkeypatch):
    """All are equally slow, so nothing is won by a worse one."""
    results, _, _, missed = simulate(edge_ms=lambda setting: 100.0, seconds=20, monkeypatch=monkeypatch)
    assert len(missed) == 1
    assert setting_at(results, 19) == 0


def test_a_source_slower_than_the_target_is_not_missed(monkeypatch):
    _, events, _, missed = simulate(fps=5.0, edge_ms=lambda setting: 150.0, seconds=20, monkeypatch=monkeypatch)
    assert not missed
    # Still no setting reaches 15 FPS, and why is told once.
    (slow,) = events.of("source_slow")
    assert slow["why"] == "the source gives 5.0 FPS, so that nothing reaches target-fps=15"
    _, events, _, _ = simulate(fps=14.9, seconds=20, monkeypatch=monkeypatch)
    assert not events.of("source_slow")


def test_a_setting_that_never_changes_tells_that_it_misses(monkeypatch):
    """80 kB at 15 FPS take 9.6 Mbit/s."""
    slow = {"rate": lambda ns: 4e6, "seconds": 20, "monkeypatch": monkeypatch}
    _, _, _, (why,) = simulate("fixed:1,fp16", **slow)
    assert why.startswith("1 fp16 does not meet target-fps=15: it makes 6.2 FPS where the link carries 4")
    _, _, _, (why,) = simulate("fixed:1,fp16", target=Target(delay_ms=75.0), **slow)
    assert why.startswith("1 fp16 does not meet target-delay-ms=75: it makes ")
    for fps in (15.0, 5.0):
        _, _, _, missed = simulate("fixed:0.5,uint8", rate=lambda ns: 4e6, fps=fps, seconds=20, monkeypatch=monkeypatch)
        assert not missed


@pytest.mark.parametrize(
    ("fps", "delay_ms", "most_bytes"), [(None, 120.0, 40_000), (None, 75.0, 20_000), (15.0, 75.0, 20_000)]
)
def test_a_delay_is_kept(fps, delay_ms, most_bytes, monkeypatch):
    results, _, _, missed = simulate(
        target=Target(fps, delay_ms), rate=lambda ns: 6e6, seconds=20, monkeypatch=monkeypatch
    )
    delays = [(r.output_ns - r.captured_ns) / MS for r in results if r.captured_ns > 5 * S]
    assert sorted(delays)[int(0.95 * len(delays))] <= delay_ms
    assert LADDER[setting_at(results, 19)].bytes_per_frame <= most_bytes
    assert not missed


def test_a_link_that_collapses_while_a_frame_is_on_it_is_believed_at_once(monkeypatch):
    results, events, _, _ = simulate(rate=steps((100e6, 0), (1e6, 10)), seconds=20, monkeypatch=monkeypatch)
    wide = [r for r in results if r.picked_ns > 12 * S and r.setting == 0]
    # In flight, computed and waiting: no more large frames than those.
    assert len([r for r in results if r.sent_ns > 11 * S and r.setting == 0]) <= 3
    assert not wide
    assert all(told["why"] for told in events.of("setting"))


def test_the_fixed_policy_is_found_by_its_spelling():
    for text, index in (("1,fp16", 0), ("1.0,uint8", 1), ("0.25,uint4", 4)):
        assert open_policy(f"fixed:{text}", LADDER, None).choose(None, 2).setting == index
    with pytest.raises(ConfigError, match=r"fixed:0\.5,uint8"):
        open_policy("fixed:0.3,uint8", LADDER, None)


@pytest.mark.parametrize("text", ["best", "model:1", ""])
def test_an_unknown_policy_is_refused(text):
    with pytest.raises(ConfigError, match="give model, step, or fixed"):
        open_policy(text, LADDER, Target(fps=15))


def test_a_policy_without_a_target_is_refused():
    with pytest.raises(ConfigError, match="target-fps=15"):
        open_policy("model", LADDER, None)


@pytest.mark.parametrize("text", ["", "fps=15", "target-fps=0", "target-fps=-3", "target-fps", "target-delay=3"])
def test_a_target_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="target-fps=15 or target-delay-ms=120"):
        Target.parse(text)


def test_targets_are_read():
    assert Target.parse("target-fps=12.5") == Target(fps=12.5)
    assert str(Target.parse("target-delay-ms=120")) == "target-delay-ms=120"
    assert Target.parse("target-fps=15, target-delay-ms=80") == Target(fps=15, delay_ms=80)
    assert str(Target(fps=15, delay_ms=80)) == "target-fps=15,target-delay-ms=80"


def test_tries_that_fail_get_rarer_and_another_link_ends_the_pause():
    climb = Climb()
    now = 0
    pauses = []
    for _ in range(4):
        climb.climbed(1000, now)
        climb.fell(now + S, rate=100.0)
        failed = now = now + S
        while not climb.may_try(1000, now, 100.0):
            now += S // 10
        pauses.append((now - failed) / S)
    assert pauses == [2, 4, 8, 16]
    climb.climbed(1000, now)
    climb.fell(now + S, rate=100.0)
    assert not climb.may_try(1000, now + S, 150.0)
    assert climb.may_try(1000, now + S, 250.0)
    assert climb.may_try(500, now + S, 100.0)
    # A try that lasted makes the next pause short again.
    now += 100 * S
    climb.climbed(1000, now)
    climb.fell(now + 10 * S, rate=100.0)
    assert climb.may_try(1000, now + 10 * S, 100.0)


def test_what_has_held_is_asked_without_a_break():
    hold = Hold(S)
    assert not hold.look(True, 0)
    assert hold.look(True, S)
    assert not hold.look(False, 2 * S)
    assert not hold.look(True, 3 * S)
    assert hold.look(True, 4 * S)
    hold.reset()
    assert not hold.look(True, 5 * S)
