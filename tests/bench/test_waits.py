"""Where a frame's delay and a lane's time go, on hand-made journals with known answers."""

import itertools

import pytest

from splitrail.bench.clock import rank_clocks
from splitrail.bench.waits import delay_breakdown, frame_parts, rank_time

MS = 1_000_000
SKEW = 7_000 * MS
EDGE = "0->1 features"
NUM = 6
PERIOD = 50


def begin(rank, host, lanes, graphs):
    return {
        "e": "begin",
        "t": rank * SKEW,
        "rank": rank,
        "host": host,
        "lanes": lanes,
        "graphs": graphs,
        "source_rank": 0,
        "sink_rank": 1,
        "edges": {"0": EDGE},
        "clocks": {"0": [2000, SKEW, 0] if rank == 0 else [2000, SKEW, SKEW]},
    }


def stage(name, frame, begin_ms, end_ms, shift=0):
    return {"e": "stage", "n": name, "f": frame, "b": round(begin_ms * MS) + shift, "t": round(end_ms * MS) + shift}


def wait(cause, where, frame, begin_ms, end_ms, shift=0):
    begin_ns, end_ns = round(begin_ms * MS) + shift, round(end_ms * MS) + shift
    return {"e": "wait", "c": cause, "n": where, "f": frame, "b": begin_ns, "t": end_ns}


def journals():
    """Frame n, ms after 50 n:

    0 to 4 capture, 4 to 6 preprocess, 6 to 9 waits for the backbone's lane, 9 to 30 backbone, 30.5 to 36.5 waits for credit,
    37 to 45 on the way, 45 to 48 waits for the transformer's lane, 48 to 48.2 decode, 48.2 to 90 transformer, 91 to 92
    postprocess, 92.5 output.
    """
    near = [begin(0, "edge", ["source+preprocess", "backbone"], ["backbone"])]
    far = [begin(1, "workstation", ["transformer", "postprocess+sink"], ["transformer"])]
    for frame in range(NUM):
        at = PERIOD * frame
        near += [
            stage("capture", frame, at, at + 4),
            stage("preprocess", frame, at + 4, at + 6),
            wait("queue", "source+preprocess", frame, at + 6, at + 8),
            stage("backbone", frame, at + 9, at + 30),
            wait("credit", EDGE, frame, at + 30.5, at + 36.5),
            wait("input", "source+preprocess", frame + 1, at + 37, at + 50),
        ]
        posted, arrived = round((at + 37) * MS), round((at + 45) * MS) + SKEW
        far += [
            {"e": "transfer", "n": EDGE, "f": frame, "k": 1, "s": 10, "b": posted, "t": arrived},
            wait("input", EDGE, frame, at + 41, at + 45, SKEW),
            stage("decode", frame, at + 48, at + 48.2, SKEW),
            stage("transformer", frame, at + 48.2, at + 90, SKEW),
            stage("postprocess", frame, at + 91, at + 92, SKEW),
            {
                "e": "fate",
                "f": frame,
                "x": "done",
                "r": "",
                "c": at * MS,
                "p": 0,
                "t": round((at + 92.5) * MS) + SKEW,
            },
            stage("output", frame, at + 92.5, at + 95, SKEW),
            wait("sink", "pictures", frame, at + 93, at + 95, SKEW),
        ]
    return {0: near, 1: far}


def frames(lines=None):
    lines = lines or journals()
    return frame_parts(lines, rank_clocks(lines))


def test_the_parts_of_a_frame_are_named_and_in_order():
    found = [(part.rank, part.name, round((part.end_ns - part.begin_ns) / MS, 3)) for part in frames()[3]]
    assert found == [
        (0, "capture", 4),
        (0, "preprocess", 2),
        (0, "queue", 2),
        (0, "queued", 1),
        (0, "backbone", 21),
        (0, "runtime", 0.5),
        (0, "credit", 6),
        (0, "runtime", 0.5),
        (1, f"transfer {EDGE}", 8),
        (1, "queued", 3),
        (1, "decode", 0.2),
        (1, "transformer", 41.8),
        (1, "queued", 1),
        (1, "postprocess", 1),
        (1, "runtime", 0.5),
    ]


def test_the_parts_add_up_to_the_delay_without_a_gap():
    for frame, parts in frames().items():
        assert parts[0].begin_ns == PERIOD * frame * MS
        assert all(one.end_ns == other.begin_ns for one, other in itertools.pairwise(parts))
        assert parts[-1].end_ns - parts[0].begin_ns == 92.5 * MS


def test_parts_that_overlap_by_a_clock_error_still_add_up():
    lines = journals()
    for line in lines[1]:
        if line["e"] == "transfer":
            line["b"] -= 8 * MS  # posted, by a wrong clock, before the backbone had ended
    parts = frames(lines)[2]
    assert sum(part.end_ns - part.begin_ns for part in parts) == 92.5 * MS
    assert min(part.end_ns - part.begin_ns for part in parts) > 0


def test_mean_parts_add_up_to_the_mean_delay():
    rows = delay_breakdown(frames())
    assert sum(row["mean_ms"] for row in rows) == pytest.approx(92.5)
    by_name = {(row["rank"], row["name"]): row for row in rows}
    assert by_name[0, "credit"]["p50_ms"] == 6.0
    assert by_name[1, "queued"]["mean_ms"] == 4.0  # two stretches of one frame
    assert [row["name"] for row in rows][:3] == ["capture", "preprocess", "queue"]
    assert delay_breakdown({}) == []


def test_a_wait_of_few_frames_counts_in_the_mean_over_all():
    lines = journals()
    lines[0] = [line for line in lines[0] if line["e"] != "wait" or line["c"] != "credit" or line["f"] == 0]
    row = next(row for row in delay_breakdown(frames(lines)) if row["name"] == "credit")
    assert (row["num"], row["mean_ms"], row["p50_ms"]) == (1, 1.0, 0.0)


def test_a_part_that_the_first_frame_does_not_have_finds_its_place():
    lines = journals()
    lines[0] = [line for line in lines[0] if line["e"] != "wait" or line["c"] != "credit" or line["f"] > 2]
    assert [row["name"] for row in delay_breakdown(frames(lines))] == [row["name"] for row in delay_breakdown(frames())]


def test_frames_that_were_dropped_or_never_ended_have_no_parts():
    lines = journals()
    lines[1] = [line for line in lines[1] if line["e"] != "fate" or line["f"] < 4]
    lines[0].append({"e": "fate", "f": 5, "x": "dropped", "r": "drop-oldest", "c": 250 * MS, "p": 0, "t": 251 * MS})
    assert sorted(frames(lines)) == [0, 1, 2, 3]


def test_a_rank_without_a_known_clock_leaves_its_frames_out():
    lines = journals()
    lines[0][0]["clocks"] = lines[1][0]["clocks"] = {}
    assert frames(lines) == {}


def test_busy_and_waiting_shares_within_the_window():
    window = (100 * MS, 200 * MS)  # two periods of rank 0
    time = rank_time(journals()[0], ["backbone"], window)
    assert time["busy_share"] == pytest.approx(0.42)
    assert time["waits"] == [
        {"where": "source+preprocess", "cause": "no input", "ms": 26.0, "share": 0.26},
        {"where": EDGE, "cause": "no credit", "ms": 12.0, "share": 0.12},
        {"where": "source+preprocess", "cause": "next lane is slow", "ms": 4.0, "share": 0.04},
    ]
    far = rank_time(journals()[1], ["transformer"], (SKEW + 100 * MS, SKEW + 200 * MS))
    assert [(row["where"], row["cause"], row["ms"]) for row in far["waits"]] == [
        (EDGE, "no input", 8.0),
        ("pictures", "sink is slow", 4.0),
    ]


def test_spans_are_clipped_at_the_window():
    time = rank_time(
        [stage("x", 0, 0, 10), stage("x", 1, 10, 30), wait("input", "q", 2, 28, 90)], ["x"], (5 * MS, 30 * MS)
    )
    assert time["busy_share"] == 1.0
    assert time["waits"] == [{"where": "q", "cause": "no input", "ms": 2.0, "share": 0.08}]
    assert rank_time([], [], (0, MS)) == {"busy_share": None, "waits": []}
