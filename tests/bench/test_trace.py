"""The trace of a run: what viewers of the Trace Event Format need, and the times of the journals in it."""

import json

import pytest
from journal_support import FEATURES, write_run

from splitrail.bench.finished_run import FinishedRun
from splitrail.bench.trace import FIRST_LINK_PID, _nested, trace_events, write_trace


@pytest.fixture
def run(tmp_path):
    return FinishedRun.load(write_run(tmp_path / "run", num=10))


def slices(events):
    return [event for event in events if event["ph"] == "X"]


def test_every_event_has_what_its_phase_needs(run, tmp_path):
    write_trace(run, tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert not list(tmp_path.glob("*.partial"))
    assert trace["displayTimeUnit"] == "ms"
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"X", "M", "s", "f"}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["name"]
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            assert event["args"]
            continue
        assert event["ts"] >= 0
        assert ("dur" in event) == (event["ph"] == "X")
        if event["ph"] == "X":
            assert event["dur"] >= 0
        else:
            assert event["id"]
    assert min(event["ts"] for event in slices(events)) == 0


def test_ranks_are_processes_and_lanes_threads(run):
    events = trace_events(run)
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    processes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert processes[0] == "edge, rank 0"
    assert processes[1] == "workstation, rank 1"
    assert processes[FIRST_LINK_PID] == f"link {FEATURES}"
    where = {}
    for event in slices(events):
        where.setdefault((event["cat"], event["name"]), set()).add((event["pid"], names[event["pid"], event["tid"]]))
    assert where["stage", "capture"] == {(0, "source+preprocess")}
    assert where["stage", "backbone"] == {(0, "backbone")}
    assert where["stage", "output"] == {(0, "sink")}
    assert where["stage", "transformer"] == {(1, "transformer")}
    assert where["wait", "wait: credit"] == {(0, "backbone")}
    # At the queue behind source+preprocess it is the lane after it that waits.
    assert where["wait", "wait: input"] == {(0, "backbone"), (1, "transformer")}
    assert {event["pid"] for event in slices(events)} <= set(processes)


def test_times_are_us_of_rank_0s_clock(run):
    events = slices(trace_events(run))
    backbone = next(event for event in events if event["name"] == "backbone" and event["args"]["frame"] == 3)
    assert backbone["ts"] == pytest.approx(3 * 40e3 + 6e3)
    assert backbone["dur"] == pytest.approx(20e3)
    # The workstation's clock is 7 s ahead; frame 3 arrives 10 ms after it was posted at 27 ms.
    transformer = next(event for event in events if event["name"] == "transformer" and event["args"]["frame"] == 3)
    assert transformer["ts"] == pytest.approx(3 * 40e3 + 37e3, abs=200)


def test_arrows_lead_from_the_senders_lane_over_the_link_to_the_receivers(run):
    events = trace_events(run)
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert begins.keys() == ends.keys()
    # Two steps for each of two crossings of ten frames.
    assert len(begins) == 2 * 2 * 10
    for number, begin in begins.items():
        assert ends[number]["bp"] == "e"
        for event in (begin, ends[number]):
            around = [
                one
                for one in slices(events)
                if (one["pid"], one["tid"]) == (event["pid"], event["tid"])
                and one["ts"] <= event["ts"] <= one["ts"] + one["dur"]
                and one["args"]["frame"] == event["args"]["frame"]
            ]
            assert around, f"{event} belongs to no slice"
    sent, received = f"{FEATURES} 3 sent", f"{FEATURES} 3 received"
    assert (begins[sent]["pid"], ends[sent]["pid"]) == (0, FIRST_LINK_PID)
    assert (begins[received]["pid"], ends[received]["pid"]) == (FIRST_LINK_PID, 1)


def test_slices_of_a_thread_are_nested(tmp_path):
    # A link that is slower than the source: several messages are under way at once.
    run = FinishedRun.load(write_run(tmp_path, num=12, period_ms=30, link_ms=55))
    threads = {}
    for event in slices(trace_events(run)):
        threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert sum(pid == FIRST_LINK_PID for pid, _ in threads) > 1
    for spans in threads.values():
        for begin, end in spans:
            for other, last in spans:
                apart = last <= begin + 1e-3 or end <= other + 1e-3
                inside = (begin <= other and last <= end) or (other <= begin and end <= last)
                assert apart or inside


def test_a_slice_that_reaches_into_the_next_is_cut():
    def slice_of(begin, end):
        return {"ts": begin, "dur": end - begin}

    assert _nested([slice_of(5, 15), slice_of(0, 10)]) == [slice_of(0, 10), slice_of(10, 15)]
    assert _nested([slice_of(0, 10), slice_of(2, 8)]) == [slice_of(0, 10), slice_of(2, 8)]


def test_a_rank_without_a_known_clock_has_no_events(tmp_path):
    run = FinishedRun.load(write_run(tmp_path, clocks={}))
    assert run.unknown_clocks == [1]
    events = trace_events(run)
    assert {event["pid"] for event in events} == {0}
