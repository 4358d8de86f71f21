"""A link whose rate changes: how it is asked for, and when it is done."""

import json
import threading
import time

import pytest

from splitrail.bench.link_steps import link_steps
from splitrail.launch.link import Link
from splitrail.launch.rate_trace import RateTrace
from splitrail.pipeline.clock import now_ns
from splitrail.pipeline.errors import ConfigError, HostError


class FakeLink:
    def __init__(self, fails=False):
        self.rates, self.fails = [], fails

    def set_rate(self, rate):
        if self.fails:
            raise HostError("tc says no")
        self.rates.append((rate, now_ns()))


def capture(folder, time_ns):
    line = {"e": "stage", "n": "capture", "f": 0, "b": time_ns, "t": time_ns + 1}
    (folder / "journal-rank0.jsonl").write_text('{"e":"begin","t":0}\n' + json.dumps(line) + "\n")


def test_a_trace_is_read():
    trace = RateTrace.parse("100mbit:0, 8mbit:10,2mbit:20.5")
    assert trace.steps == (("100mbit", 0.0), ("8mbit", 10.0), ("2mbit", 20.5))
    assert trace.first == "100mbit"
    assert RateTrace.parse("").first is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("100mbit:0,fast:10", "link rate 'fast' is not a rate"),
        ("100mbit:0,8mbit", "no step"),
        ("100mbit:0,8mbit:ten", "no step"),
        ("100mbit:1,8mbit:10", "first must be at 0"),
        ("100mbit:0,8mbit:10,2mbit:5", "each later"),
        ("100mbit:0,8mbit:10,2mbit:10", "each later"),
    ],
)
def test_a_trace_that_is_none_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        RateTrace.parse(text)


def test_a_trace_needs_the_emulated_link_and_no_other_rate():
    trace = RateTrace.parse("8mbit:0,2mbit:1")
    with pytest.raises(ConfigError, match="add --netns"):
        Link(steps=trace)
    with pytest.raises(ConfigError, match="first step says"):
        Link(True, "1mbit", steps=trace)
    assert Link(True, steps=trace).first_rate == "8mbit"


def test_steps_are_made_in_time_after_the_first_frame(tmp_path):
    link, trace = FakeLink(), RateTrace.parse("100mbit:0,8mbit:0.3,2mbit:0.6")
    with trace.playing(link, tmp_path):
        time.sleep(0.2)
        assert not link.rates
        first_ns = now_ns()
        capture(tmp_path, first_ns)
        time.sleep(0.9)
    assert [rate for rate, _ in link.rates] == ["8mbit", "2mbit"]
    for (_, at_ns), second in zip(link.rates, (0.3, 0.6), strict=True):
        assert 0 <= (at_ns - first_ns) / 1e9 - second < 0.15
    steps = link_steps(tmp_path)
    assert [(step.rate, step.rate_bit_per_s) for step in steps] == [
        ("100mbit", 10**8),
        ("8mbit", 8 * 10**6),
        ("2mbit", 2 * 10**6),
    ]
    assert steps[0].at_ns == first_ns
    assert [round((step.at_ns - first_ns) / 1e9, 1) for step in steps[1:]] == [0.3, 0.6]


def test_a_run_that_ends_early_leaves_the_later_steps_out(tmp_path):
    link = FakeLink()
    with RateTrace.parse("100mbit:0,8mbit:60").playing(link, tmp_path):
        capture(tmp_path, now_ns())
        time.sleep(0.2)
    assert not link.rates
    assert [step.rate for step in link_steps(tmp_path)] == ["100mbit"]
    assert not [thread for thread in threading.enumerate() if thread.name == "link"]


def test_a_step_that_fails_is_told(tmp_path):
    capture(tmp_path, now_ns())
    with (
        pytest.raises(HostError, match="tc says no"),
        RateTrace.parse("2mbit:0,1mbit:0.05").playing(FakeLink(fails=True), tmp_path),
    ):
        time.sleep(0.5)


def test_without_a_trace_nothing_happens(tmp_path):
    with RateTrace().playing(FakeLink(), tmp_path):
        pass
    assert link_steps(tmp_path) == []
