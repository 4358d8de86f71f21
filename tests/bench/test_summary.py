"""The summary's arithmetic on hand-made journals: two hosts whose clocks differ, known times, known answers."""

import json

import pytest

from splitrail.bench.adapt_summary import adapt_sentences
from splitrail.bench.intervals import merge, overlap_share
from splitrail.bench.journal import Journal, journal_path, read_journal
from splitrail.bench.percentile import percentiles
from splitrail.bench.summary import complete_outputs, fps, load_journals, summarize

MS = 1_000_000
SKEW = 7_000_000_000
"""Rank 1's clock is ahead of rank 0's by this, ns."""
NUM = 10


def begin(rank, host, graphs):
    return {
        "e": "begin",
        "rank": rank,
        "host": host,
        "placement": "backbone",
        "wire": "fp16",
        "overlap": "full",
        "policy": "wait",
        "source_rank": 0,
        "sink_rank": 1,
        "graphs": graphs,
        "lanes": graphs,
        "engine": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "edges": {"0": "0->1 features_fp16"},
        # (round trip, receiver's clock minus sender's, when)
        "clocks": {"0": [2 * MS, SKEW + 100_000, 0]},
        "source": {"fps": 25.0},
    }


def journals(hosts=("a", "b"), skew=SKEW, num=NUM):
    """Frame n: captured at 40 n, backbone for 30 ms, 5 ms on the way, transformer for 20 ms, then out (rank 0's clock, ms)."""
    near = [begin(0, hosts[0], ["backbone"]), {"e": "stream", "t": 0, "tx_bytes": 1000}]
    far = [begin(1, hosts[1], ["transformer"]), {"e": "stream", "t": skew, "tx_bytes": 500}]
    for frame in range(num):
        start = 40 * frame * MS
        near.append({"e": "stage", "n": "backbone", "f": frame, "b": start, "t": start + 30 * MS})
        posted = start + 30 * MS
        name = "0->1 features_fp16"
        near.append({"e": "transfer", "n": name, "f": frame, "k": 1, "s": 1320, "b": posted, "t": posted + MS})
        arrived = posted + 5 * MS + skew
        far.append({"e": "transfer", "n": name, "f": frame, "k": 1, "s": 1320, "b": posted, "t": arrived})
        far.append({"e": "stage", "n": "transformer", "f": frame, "b": arrived, "t": arrived + 20 * MS})
        out = arrived + 20 * MS
        far.append({"e": "fate", "f": frame, "x": "done", "r": "", "c": start, "p": start, "t": out})
    near.append({"e": "end", "t": 400 * MS, "tx_bytes": 15_000, "num_captured": num, "communication_cpu_s": 0.04})
    far.append({"e": "end", "t": 400 * MS + skew, "tx_bytes": 900, "num_captured": None, "communication_cpu_s": 0.02})
    again = {"e": "clock", "edge": 0, "round_trip_ns": 2 * MS, "offset_ns": SKEW + 100_000, "at_ns": 450 * MS}
    near.append({**again, "t": 450 * MS})
    far.append({**again, "t": 450 * MS + skew, "at_ns": 450 * MS + skew})
    return {0: near, 1: far}


def test_times_across_hosts_use_the_offset_and_say_its_error():
    summary = summarize(journals())
    edge = summary["edges"][0]
    # The estimate of the offset is 0.1 ms too large, so times come out 0.1 ms short; the error bound of 1 ms covers it.
    assert edge["transfer"]["p50_ms"] == pytest.approx(4.9)
    assert edge["transfer"]["clock_error_ms"] == 1.0
    assert summary["delay"]["p50_ms"] == pytest.approx(54.9)
    assert summary["delay"]["clock_error_ms"] == 1.0
    assert abs(summary["delay"]["p50_ms"] - 55.0) <= summary["delay"]["clock_error_ms"]


def test_ranks_of_one_host_share_a_clock_without_error():
    summary = summarize(journals(hosts=("a", "a"), skew=0))
    assert summary["edges"][0]["transfer"]["p50_ms"] == pytest.approx(5.0)
    assert summary["delay"]["p50_ms"] == pytest.approx(55.0)
    assert summary["delay"]["clock_error_ms"] == 0.0


def test_services_rate_overlap_and_bytes():
    summary = summarize(journals(hosts=("a", "a"), skew=0))
    backbone = summary["ranks"][0]["stages"][0]
    assert (backbone["name"], backbone["num"], backbone["p50_ms"]) == ("backbone", NUM, 30.0)
    assert summary["fps"] == pytest.approx(25.0)
    # Transformer n from 35 to 55, backbone n+1 from 40: 15 ms in each of 9 periods, of 0 to 415 ms.
    assert summary["overlap_share"] == pytest.approx(9 * 15 / 415, abs=1e-3)
    assert summary["edges"][0]["bytes_per_frame"] == summary["edges"][0]["bytes_per_result"] == 1320
    assert summary["wire_proof"] == {"interface_bytes": 14_400, "payload_bytes": NUM * 1320}
    assert summary["ranks"][0]["communication_cpu_share"] == pytest.approx(0.1)
    assert summary["counts"] == {
        "captured": NUM,
        "done": NUM,
        "empty": 0,
        "dropped": 0,
        "failed": 0,
        "unfinished": 0,
    }


def test_an_empty_frame_is_a_result_of_a_headers_bytes():
    lines = journals(hosts=("a", "a"), skew=0)
    for line in (each for rank in lines.values() for each in rank):
        if line.get("f", 0) < 4 and line["e"] == "transfer":
            line |= {"k": 2, "s": 320}
        elif line.get("f", 0) < 4 and line["e"] == "fate":
            line["x"] = "empty"
        elif line.get("f") == 9 and line["e"] == "fate":
            line["x"] = "failed"
    edge = summarize(lines)["edges"][0]
    assert (edge["num_messages"], edge["num_empty"], edge["bytes_per_frame"]) == (6, 4, 1320)
    # The frame that failed later is no result, and neither are its bytes.
    assert edge["bytes_per_result"] == pytest.approx((4 * 320 + 5 * 1320) / 9, abs=0.1)
    assert edge["transfer"]["num"] == 6
    assert summarize({rank: [] for rank in lines})["edges"] == []


def test_an_adaptive_run_tells_that_its_target_was_missed():
    lines = journals()
    assert summarize(lines)["adapt"] is None
    assert adapt_sentences(None) == []
    lines[0][0]["adapt"] = {"target": "target-fps=15", "policy": "fixed:1,fp16"}
    kept = summarize(lines)["adapt"]
    assert kept == {"target": "target-fps=15", "policy": "fixed:1,fp16", "target_missed": None, "source_slow": None}
    assert adapt_sentences(kept) == ["target-fps=15: never missed for two seconds"]
    assert adapt_sentences({**kept, "target": None}) == []
    for name, frame, why in (("target_missed", 7, "it is slow"), ("source_slow", 8, "the source gives 5.0 FPS")):
        lines[0].append({"e": name, "f": frame, "why": why, "t": 1})
    told = summarize(lines)["adapt"]
    assert told["target_missed"] == {"frame": 7, "why": "it is slow"}
    assert adapt_sentences(told) == [
        "target missed, for two seconds by frame 7: it is slow",
        "source too slow for the target: the source gives 5.0 FPS",
    ]


def test_a_crash_leaves_frames_unfinished_and_says_so():
    lines = journals()
    lines[1] = [line for line in lines[1] if line.get("f", 0) < 6 and line["e"] != "end"]
    lines[0] = [line for line in lines[0] if line["e"] != "end"]
    summary = summarize(lines, "rank 1 on b was killed")
    assert summary["counts"]["captured"] == NUM
    assert summary["counts"]["done"] == 6
    assert summary["counts"]["unfinished"] == 4
    assert summary["error"] == "rank 1 on b was killed"
    assert summary["wire_proof"]["interface_bytes"] is None


def test_dropped_frames_get_their_line_and_cut_off_lines_go(tmp_path):
    lines = journals()
    lines[0].insert(3, {"e": "fate", "f": NUM, "x": "dropped", "r": "drop-oldest", "c": 5, "p": 6, "t": 7})
    for rank, content in lines.items():
        journal_path(tmp_path, rank).write_text("".join(json.dumps(line) + "\n" for line in content) + '{"e": "sta')
    (tmp_path / "detections.jsonl").write_text('{"frame": 1, "fate": "done"}\n{"frame": 0, "fate": "done"}\n{"fra')
    summary = complete_outputs(tmp_path)
    written = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in written] == [0, 1, NUM]
    assert (written[2]["fate"], written[2]["reason"], written[2]["capture_ns"]) == ("dropped", "drop-oldest", 5)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["counts"]["dropped"] == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_journal_survives_its_writer(tmp_path):
    path = journal_path(tmp_path, 0)
    journal = Journal(lambda data: path.open("ab").write(data), lambda error: None)
    journal.event("begin", rank=0)
    journal.stage("backbone", 3, 10, 20)
    journal.wait("input", "lane", 3, 0, 50_000)  # shorter than 0.1 ms: not written
    journal.wait("credit", "lane", 3, 0, 200_000)
    journal.fate(3, "failed", 'a "quoted" reason', 1, 2, 3)
    journal.close()
    assert [line["e"] for line in read_journal(path)] == ["begin", "stage", "wait", "fate"]
    assert load_journals(tmp_path)[0][3]["r"] == 'a "quoted" reason'


def test_a_journal_that_cannot_be_shipped_tells():
    errors = []

    def fail(data):
        raise OSError("full")

    journal = Journal(fail, errors.append)
    journal.event("begin")
    journal._thread.join(3)
    assert [str(error) for error in errors] == ["full"]


def test_percentiles_come_with_their_count_and_their_weakness():
    assert percentiles([])["p50_ms"] is None
    few = percentiles([1.0, 2.0, 3.0])
    assert (few["num"], few["p50_ms"], few["weak"]) == (3, 2.0, ["p95", "p99"])
    assert percentiles([1.0] * 130)["weak"] == ["p99"]
    assert percentiles([1.0] * 662)["weak"] == []


def test_all_times_leave_the_warm_up_out_and_counts_do_not():
    lines = journals(hosts=("a", "a"), skew=0, num=40)
    for line in (each for rank in lines.values() for each in rank):
        if line.get("f", 5) < 5:  # the first results took a second more everywhere
            line["c" if line["e"] == "fate" else "b"] -= 1000 * MS
    summary = summarize(lines)
    assert (summary["num_warm_up"], summary["counts"]["done"]) == (5, 40)
    (backbone,), edge, delay = summary["ranks"][0]["stages"], summary["edges"][0], summary["delay"]
    assert (backbone["num"], backbone["p99_ms"]) == (35, 30.0)
    assert (edge["num_messages"], edge["transfer"]["num"], edge["transfer"]["p99_ms"]) == (40, 35, 5.0)
    assert (delay["num"], delay["p99_ms"]) == (35, 55.0)
    # A short run has no warm-up: nothing would be left.
    short = summarize(journals(num=20))
    assert (short["num_warm_up"], short["delay"]["num"], short["ranks"][0]["stages"][0]["num"]) == (0, 20, 20)


def test_fps_leaves_the_warm_up_out():
    slow_start = [{"x": "done", "t": n * 500 * MS} for n in range(5)]
    steady = [{"x": "done", "t": (2500 + 40 * n) * MS} for n in range(50)]
    assert fps(slow_start + steady) == pytest.approx(25.0)
    assert fps(steady[:1]) is None
    assert fps([]) is None


@pytest.mark.parametrize(
    ("busy", "share"),
    [
        ([[(0, 10)], [(0, 10)]], 1.0),
        ([[(0, 10)], [(10, 20)]], 0.0),
        ([[(0, 10), (5, 12)], [(10, 20)]], 0.1),
        ([[(0, 10)], [(0, 5)], [(5, 10)]], 1.0),
        ([[], []], None),
    ],
)
def test_overlap_is_the_time_in_which_two_work(busy, share):
    assert overlap_share(busy) == share


def test_spans_merge():
    assert merge([(5, 8), (0, 3), (2, 6), (10, 11)]) == [(0, 8), (10, 11)]
