"""Streaming accuracy: the latest result at each moment against the truth of that moment, by hand."""

import json

import numpy as np
import pytest

from splitrail.bench.accuracy import Truth
from splitrail.bench.adapt_trace import step_results
from splitrail.bench.figures.adapt import draw_adapt
from splitrail.bench.figures.style import to_png
from splitrail.bench.finished_run import FinishedRun
from splitrail.bench.report import make_report
from splitrail.bench.setting_changes import names_by_frame, rates_seen, setting_changes
from splitrail.bench.streaming_accuracy import streaming_accuracy, ticks_of
from splitrail.bench.summary import load_journals
from splitrail.stages.target import Target

MS, S = 1_000_000, 1_000_000_000


def box_at(frame):
    """The world: one object that jumps by its own size from frame to frame."""
    return [100.0 * frame, 0.0, 100.0 * frame + 100, 100.0]


def truth_of(frame):
    return Truth(np.array([box_at(frame)], np.float32), np.array([0], np.int32))


def write(folder, outputs_ms, num, period_ms=100, **begin):
    """`outputs_ms` is frame -> when its result came, ms; the others were dropped. One rank, one clock."""
    folder.mkdir(exist_ok=True)
    lines = [{"e": "begin", "t": 0, "schema": 1, "rank": 0, "host": "h", "source_rank": 0, "sink_rank": 0, **begin}]
    frames = []
    for frame in range(num):
        captured = S + frame * period_ms * MS
        done = frame in outputs_ms
        output = S + round(outputs_ms[frame] * MS) if done else captured
        fate = "done" if done else "dropped"
        lines.append({"e": "stage", "n": "capture", "f": frame, "b": captured, "t": captured + MS})
        lines.append({"e": "fate", "f": frame, "x": fate, "r": "", "c": captured, "p": 0, "t": output})
        found = [{"box": box_at(frame), "score": 0.9, "label": "thing"}] if done else []
        frames.append({"frame": frame, "fate": fate, "detections": found})
    (folder / "journal-rank0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "detections.jsonl").write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    return folder


def score(folder):
    return streaming_accuracy(folder, ticks_of(load_journals(folder)), ("thing",), truth_of)


def test_at_each_tick_the_latest_result_that_has_come_counts(tmp_path):
    write(tmp_path, {0: 50, 1: 250, 3: 460}, 6)
    ticks = ticks_of(load_journals(tmp_path))
    assert [(tick.frame, tick.result) for tick in ticks] == [(0, None), (1, 0), (2, 0), (3, 1), (4, 1), (5, 3)]


def test_a_perfect_detector_that_is_late_is_wrong_in_a_world_that_moves(tmp_path):
    assert score(write(tmp_path, {frame: 100 * frame + 150 for frame in range(20)}, 20)).map_50 == 0.0


def test_a_perfect_result_at_once_is_right(tmp_path):
    # At the moment of its own capture: no real run is as fast.
    assert score(write(tmp_path, {frame: 100 * frame for frame in range(20)}, 20)).map_50 == 1.0


def test_nothing_yet_counts_as_nothing_found(tmp_path):
    """In a world that stands still: the first half of the moments has no result."""
    write(tmp_path, {0: 950}, 20)
    ticks = ticks_of(load_journals(tmp_path))
    found = streaming_accuracy(tmp_path, ticks, ("thing",), lambda frame: truth_of(0))
    # Recall is 10 of 20 at full precision: 51 of COCO's 101 points.
    assert found.map_50 == pytest.approx(51 / 101, abs=0.01)


SETTINGS = [
    {"name": "1 fp16", "bytes_per_frame": 80_000},
    {"name": "0.25 uint4", "bytes_per_frame": 5_000},
]


@pytest.fixture
def adapted(tmp_path):
    """15 FPS, but for the second after the link fades at 10 s; then the narrow setting."""
    folder = tmp_path / "run"
    slow = set(range(152, 164))
    outputs = {frame: frame * 1000 / 15 + 90 for frame in range(300) if frame not in slow}
    chain, edges = [[0, "source+preprocess"], [0, "backbone"]], {}
    write(folder, outputs, 300, 1000 / 15, settings=SETTINGS, chain=chain, edges=edges, graphs=["backbone"])
    events = [
        {"e": "setting", "t": S, "f": 0, "s": 0, "n": "1 fp16", "why": "there is room"},
        {"e": "setting", "t": 12 * S, "f": 164, "s": 1, "n": "0.25 uint4", "why": "the link carries 2 Mbit/s"},
        {"e": "link", "t": 2 * S, "f": 15, "rate_bit_per_s": 95_000_000, "under_way_bytes": 0},
        {"e": "link", "t": S, "f": 0, "rate_bit_per_s": None, "under_way_bytes": 0},
    ]
    with (folder / "journal-rank0.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    steps = [
        {"rate": "100mbit", "rate_bit_per_s": 10**8, "second": 0, "at_ns": S},
        {"rate": "2mbit", "rate_bit_per_s": 2 * 10**6, "second": 10, "at_ns": 11 * S},
    ]
    (folder / "link.json").write_text(json.dumps(steps))
    return FinishedRun.load(folder)


def test_decisions_are_read_with_their_reasons(adapted):
    changes = setting_changes(adapted)
    assert [(change.frame, change.name, change.bytes_per_frame) for change in changes] == [
        (0, "1 fp16", 80_000),
        (164, "0.25 uint4", 5_000),
    ]
    assert changes[1].why == "the link carries 2 Mbit/s"
    assert rates_seen(adapted) == [(2 * S, 95_000_000.0)]
    names = names_by_frame(adapted)
    assert (names[151], names[164]) == ("1 fp16", "0.25 uint4")


def test_each_step_of_the_link_has_its_rate_delay_and_recovery(adapted):
    first, second = step_results(adapted, Target(fps=15.0))
    assert first.fps == pytest.approx(15, abs=0.3)
    assert first.recovery_s == pytest.approx(0.09, abs=0.1)
    assert first.delay_p95_ms == pytest.approx(90, abs=1)
    assert (first.num_dropped, second.num_dropped) == (0, 12)
    # Frame 164 is captured 0.93 s after the step and done 0.09 s later.
    assert second.recovery_s == pytest.approx(1.02, abs=0.1)
    assert second.met_share == 1
    assert second.rate_back_s == second.recovery_s
    assert (first.is_rate_kept, second.is_rate_kept) == (True, True)
    assert second.shares["0.25 uint4"] > 0.9
    assert first.shares == {"1 fp16": 1.0}


def test_a_rate_that_comes_and_goes_is_not_kept(tmp_path):
    """15 FPS for a second after the step, then two seconds of three with 10."""
    outputs = {n: n * 1000 / 15 for n in range(300) if n < 165 or n % 45 < 15 or n % 3}
    folder = tmp_path / "run"
    write(folder, outputs, 300, 1000 / 15, settings=SETTINGS, chain=[[0, "source"]], edges={}, graphs=[])
    steps = [{"rate": "2mbit", "rate_bit_per_s": 2 * 10**6, "second": 10, "at_ns": 11 * S}]
    (folder / "link.json").write_text(json.dumps(steps))
    (step,) = step_results(FinishedRun.load(folder), Target(fps=15.0))
    assert step.recovery_s < 0.1
    assert step.rate_back_s is None or step.rate_back_s > 5
    assert not step.is_rate_kept
    # A target without a rate has none to keep.
    assert step_results(FinishedRun.load(folder), Target(delay_ms=100.0))[0].rate_back_s is None


def test_a_target_that_is_never_met_again_says_so(adapted):
    assert [step.recovery_s for step in step_results(adapted, Target(fps=30.0))] == [None, None]
    assert step_results(adapted, Target(delay_ms=100.0))[0].recovery_s == 0
    assert step_results(adapted, Target(delay_ms=50.0))[1].recovery_s is None


def texts(figure):
    return " ".join(
        text
        for axes in figure.axes
        for text in [axes.get_ylabel(), axes.get_xlabel(), *(label.get_text() for label in axes.get_yticklabels())]
    )


def test_the_figure_shows_link_settings_rate_and_delay(adapted):
    figure = draw_adapt({"adaptive": adapted}, Target(fps=15.0))
    assert to_png(figure).startswith(b"\x89PNG")
    said = texts(figure)
    for words in ("Mbit/s", "1 fp16, 80.0 kB", "0.25 uint4, 5.0 kB", "FPS", "delay"):
        assert words in said
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "target-fps=15" in legend
    assert "adaptive" in legend


def test_the_report_of_an_adaptive_run_has_every_decision(adapted):
    report = make_report([adapted])
    (section,) = report.runs
    table = next(table for table in section.tables if table.title == "Settings")
    assert table.rows[1] == ("11.00", "164", "0.25 uint4", "the link carries 2 Mbit/s")
    assert [figure.name for figure in section.figures] == ["timeline-0", "adapt-0", "waiting-0"]
