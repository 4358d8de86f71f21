"""Figures: each draws what the runs hold, and says "not measured" for what they do not."""

import builtins
import io

import numpy as np
import pytest
from journal_support import MS, write_run
from matplotlib.image import imread

from splitrail.bench.breakdown import Breakdown, edge_fps, lane_times
from splitrail.bench.figures.bars import grouped_bars, stacked_rows
from splitrail.bench.figures.components import draw_components, draw_delay_components, draw_edge_time
from splitrail.bench.figures.delay import draw_delay
from splitrail.bench.figures.memory import draw_memory
from splitrail.bench.figures.power import draw_power
from splitrail.bench.figures.prediction import draw_predictions
from splitrail.bench.figures.style import FigureError, to_png
from splitrail.bench.figures.throughput import draw_edge_throughput, draw_throughput
from splitrail.bench.figures.timeline import draw_timeline, stretch
from splitrail.bench.figures.waiting import draw_waiting
from splitrail.bench.run_set import find_runs


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "fast", num=40)
    write_run(tmp_path / "slow", num=40, link_ms=60, period_ms=60, detector="small", transformer_ms=12)
    write_run(tmp_path / "killed", num=40, last_frame=30, ended=False, overlap="naive")
    return find_runs([tmp_path])


def texts(figure):
    """Everything written in a figure."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        found += [label.get_text() for label in (*axes.get_yticklabels(), *axes.get_xticklabels())]
        found += [axes.get_xlabel(), axes.get_ylabel()]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [text.replace("\n", " ") for text in found]


def widths(figure, row):
    """Of the bars in a row."""
    return [bar.get_width() for bar in figure.axes[0].patches if abs(bar.get_y() + bar.get_height() / 2 - row) < 0.01]


@pytest.mark.parametrize(
    ("draw", "unit"),
    [
        (draw_throughput, "throughput (FPS)"),
        (draw_edge_throughput, "edge component (FPS)"),
        (draw_components, "time of a frame (ms)"),
        (draw_delay_components, "capture-to-output delay (ms)"),
        (draw_delay, "capture-to-output delay (ms)"),
        (draw_edge_time, "service time on the edge device (ms)"),
        (draw_memory, "peak resident memory (MB)"),
        (draw_power, "power (W)"),
    ],
)
def test_a_figure_is_a_picture_with_units(runs, draw, unit):
    figure = draw(runs)
    assert unit in texts(figure)
    picture = imread(io.BytesIO(to_png(figure)))
    assert picture.shape[1] == 1200
    assert np.unique(picture.reshape(-1, picture.shape[2]), axis=0).shape[0] > 3


def test_bars_have_the_values_of_the_runs(runs):
    figure = draw_throughput(runs)
    assert "25.0" in texts(figure)
    # The killed run's number is no result.
    assert any(text.endswith("*") for text in texts(figure))
    heights = sorted(round(bar.get_height(), 1) for bar in figure.axes[0].patches)
    assert heights == [16.7, 25.0, 25.0]


def test_repeats_are_one_bar_with_their_spread():
    figure = grouped_bars({"tiny": {"full": [10.0, 14.0, 11.0]}}, "FPS")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [11.0]
    (bars,) = figure.axes[0].containers[1:]
    assert bars.has_yerr


def test_nothing_is_drawn_as_zero_that_was_not_measured(runs):
    assert "not measured" in texts(grouped_bars({"tiny": {"full": [None], "backbone": [3.0]}}, "FPS"))
    killed = next(row for row, run in enumerate(runs) if run.folder.name == "killed")
    figure = draw_memory(runs)
    assert widths(figure, killed) == []
    assert texts(figure).count("not measured") == 1
    assert texts(draw_power(runs)).count("not measured") == len(runs)
    figure, _ = stacked_rows([("a", None), ("b", {"x": 1.0})], {"x": ("red", "")}, "ms")
    assert "not measured" in texts(figure)
    assert widths(figure, 0) == []


def test_parts_of_a_frames_time(runs):
    fast = next(run for run in runs if run.folder.name == "fast")
    found = Breakdown.of(fast)
    # capture 4, preprocess 2, backbone 20, credit 1, link 10, transformer 8 + postprocess 1, link 1
    assert found.capture_ms == pytest.approx(4)
    assert found.compute_ms == pytest.approx({"edge": 22, "workstation": 9}, abs=0.3)
    assert found.wire_ms == pytest.approx(11, abs=0.3)
    assert found.behind_ms == 0
    assert found.credit_ms == pytest.approx(1)
    assert found.delay_ms == pytest.approx(47)
    parts = sum(found.compute_ms.values()) + found.capture_ms + found.wire_ms + found.behind_ms
    assert parts + found.queued_ms + found.credit_ms + found.runtime_ms == pytest.approx(found.delay_ms)
    assert edge_fps(fast) == pytest.approx(50)


def test_time_behind_earlier_frames_is_not_time_on_the_link(tmp_path):
    write_run(tmp_path, num=10, period_ms=30, link_ms=50)
    (run,) = find_runs([tmp_path])
    found = Breakdown.of(run)
    # Each frame waits 20 ms longer than the one before it.
    assert found.wire_ms == pytest.approx(51, abs=0.3)
    assert found.behind_ms == pytest.approx(20 * 4.5, abs=0.3)


def test_lanes_times_are_shares_by_cause(runs):
    fast = next(run for run in runs if run.folder.name == "fast")
    lanes = {lane.name: lane for lane in lane_times(fast)}
    assert lanes["edge: backbone"].computes == pytest.approx(0.5, abs=0.02)
    assert lanes["edge: backbone"].waits["credit"] == pytest.approx(1 / 40, abs=0.005)
    assert lanes["edge: backbone"].waits["input"] == pytest.approx(6 / 40, abs=0.01)
    assert lanes["workstation: transformer"].waits["input"] == pytest.approx(1, abs=0.01)
    assert lanes["edge: sink"].computes == pytest.approx(1 / 40, abs=0.005)
    assert lanes["edge: sink"].waits["sink"] == pytest.approx(1 / 40, abs=0.005)
    figure = draw_waiting(fast)
    assert "share of the time (%)" in texts(figure)
    assert {"computes", "waits for input", "waits for credit to send"} <= set(texts(figure))


def test_the_timeline_shows_lanes_links_and_frames(runs):
    fast = next(run for run in runs if run.folder.name == "fast")
    begin, end = stretch(fast, 6)
    assert (end - begin) / MS == pytest.approx(240, rel=0.01)
    figure = draw_timeline(fast)
    said = texts(figure)
    for row in (
        "edge: source+preprocess",
        "edge: backbone",
        "link 0->1 features",
        "workstation: transformer",
        "edge: sink",
    ):
        assert row in said
    assert "time (ms)" in said
    assert {"even frame", "odd frame", "waits for input", "waits for credit"} <= set(said)
    frames = {int(text) for text in said if text.isdigit() and int(text) < 40}
    assert {output.frame for output in fast.steady if begin < output.output_ns < end - 40 * MS} <= frames


def test_the_timeline_of_a_killed_run_is_its_end(runs):
    killed = next(run for run in runs if run.folder.name == "killed")
    killed.summary["error"] = "rank 1 was killed"
    _, end = stretch(killed, 6)
    assert end == max(work.end_ns for work in killed.work)
    assert "39" in texts(draw_timeline(killed))


def test_power_and_predictions_where_there_are_some(runs):
    (run, *_) = runs
    run.summary["energy"] = [{"host": "edge", "name": "ina3221", "scope": "module", "mean_w": 7.25, "idle_w": 2.5}]
    figure = draw_power([run])
    assert "7.25" in texts(figure)
    assert "idle, before the run" in texts(figure)
    (run.folder / "prediction.json").write_text('{"fps": 26.0, "delay_ms": 50}')
    figure = draw_predictions([run])
    points = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() in "os"]
    assert points == pytest.approx([run.summary["fps"] / 26, run.summary["delay"]["p50_ms"] / 50])


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def wall(name, *arguments, **more):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", wall)
    with pytest.raises(FigureError, match=r"pip install 'splitrail\[bench\]'"):
        grouped_bars({"a": {"b": [1.0]}}, "FPS")
