"""The report of a sweep: its table, its curves, what it says of bytes, and what it leaves out when there are many runs."""

import json

import pytest
from journal_support import RESULT, write_run

from splitrail.bench.figures.rates import draw_accuracy_over_bytes, draw_delay_over_rate, draw_gain
from splitrail.bench.finished_run import ReportError
from splitrail.bench.report import make_report
from splitrail.bench.report_sweep import representatives, sweep_drawings, sweep_sentences, sweep_table
from splitrail.bench.run_set import find_runs, series_of
from splitrail.bench.sweep_file import Sweep
from splitrail.bench.sweep_results import SweepResults
from splitrail.bench.sweep_row import VALUES, Row
from splitrail.bench.sweep_table import collect, write_tables

RATES = {"1mbit": 1e6, "10mbit": 1e7, "100mbit": 1e8}
BYTES = {"raw": 300_000.0, "jpeg:75": 10_000.0, "fp32": 80_000.0, "uint8": 20_000.0}
MAP = {"raw": 0.5, "jpeg:75": 0.45, "fp32": 0.5, "uint8": 0.48}
COMPUTED_MS = 50.0


@pytest.fixture
def results(tmp_path):
    """As if measured: local takes 100 ms, all else 50 ms and 8 x bytes / rate."""
    sweep = Sweep.check(
        {
            "base": {"bundle": "demo", "scenario": "single-stream"},
            "grid": [
                {"placement": "full"},
                {"placement": "offload", "encoding": ["raw", "jpeg:75"], "link_rate": list(RATES)},
                {"placement": "backbone", "wire": ["fp32", "uint8"], "link_rate": list(RATES)},
            ],
        },
        "f",
        name="rates",
    )
    rows = []
    for trial in sweep.trials():
        cell = trial.cell
        how = cell.wire if cell.placement == "backbone" else cell.encoding
        sent = 0.0 if cell.placement == "full" else BYTES[how]
        link_ms = 8e3 * sent / RATES[cell.link_rate] if sent else 0.0
        values = {
            "delay_mean_ms": 2 * COMPUTED_MS if not sent else COMPUTED_MS + link_ms,
            "capture_ms": 0.0,
            "edge_ms": COMPUTED_MS if sent else 2 * COMPUTED_MS,
            "far_ms": 0.0,
            "bytes_out_per_frame": sent,
            "bytes_back_per_frame": 0.0,
            "map": MAP[how] if sent else 0.5,
            "fps": 10.0,
        }
        facts = {"weights": "a training", "metric": "delay p90", "metric_unit": "ms", "metric_note": "too few"}
        rows.append(Row(trial, "valid", "", {**dict.fromkeys(VALUES), **values}, facts))
    links = {cell: (RATES.get(cell.link_rate, float("inf")), 0.0) for cell in sweep.cells}
    write_tables(tmp_path, sweep, collect(sweep, rows, links), quick=False, command="splitrail bench --sweep f")
    found = SweepResults.load(tmp_path)
    assert found is not None
    return found


def lines(figure):
    """(Colour, style) -> points, of the lines over the three rates."""
    (axes,) = figure.axes
    return {
        (line.get_color(), line.get_linestyle()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.lines
        if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"
    }


def looks(figure):
    """Label -> (colour, style)."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    return {label: (handle.get_color(), handle.get_linestyle()) for handle, label in zip(handles, labels, strict=True)}


def test_the_delay_of_every_method_is_drawn_over_the_rate(results):
    figure = draw_delay_over_rate(results.cells)
    (axes,) = figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) == {
        "full (no link)", "offload, raw", "offload, JPEG q75", "backbone, fp32", "backbone, uint8", "the same by formula",
    }  # fmt: skip
    drawn = sorted(
        [[round(y, 6) for y in line.get_ydata()] for line in axes.lines if len(line.get_xdata()) == 3], key=str
    )
    expected = [[COMPUTED_MS + 8e3 * size / rate for rate in RATES.values()] for size in BYTES.values()]
    # Measured line, its markers, and the formula, which agrees here.
    assert drawn == sorted([[round(y, 6) for y in line] for line in expected for _ in range(3)], key=str)


def test_the_gain_is_the_other_delay_over_that_of_splitting(results):
    figure = draw_gain(results.cells)
    found, look = lines(figure), looks(figure)
    local = [(rate / 1e6, 100 / (50 + 8e3 * 20_000 / rate)) for rate in RATES.values()]
    # The fastest offload at each rate is the JPEG.
    offload = [(rate / 1e6, (50 + 8e3 * 10_000 / rate) / (50 + 8e3 * 20_000 / rate)) for rate in RATES.values()]
    assert found[look["local / (backbone, uint8)"]] == [pytest.approx(point) for point in local]
    assert found[look["fastest offload / (backbone, uint8)"]] == [pytest.approx(point) for point in offload]


def test_accuracy_is_drawn_over_bytes(results):
    figure = draw_accuracy_over_bytes(results.cells)
    (axes,) = figure.axes
    dots = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    assert dots["offload, JPEG q75: 10.0 kB"] == (10.0, 0.45)
    assert dots["backbone, uint8: 20.0 kB"] == (20.0, 0.48)
    assert "full: nothing sent" in axes.get_legend_handles_labels()[1]


def test_sentences_say_who_sends_the_fewest_bytes(results):
    assert (
        "Bytes, demo: offload, JPEG q75 sends the fewest (10,000 a frame), backbone, uint8 20,000."
        in sweep_sentences(results)
    )


def test_the_table_has_the_formula_beside_the_measured_delay(results):
    table = sweep_table(results)
    found = [dict(zip(table.headers, row, strict=True)) for row in table.rows]
    assert len(found) == 13
    row = next(row for row in found if row["method"] == "backbone, uint8" and row["link (Mbit/s)"] == "10")
    assert (row["delay mean (ms)"], row["by formula (ms)"], row["measured / formula"]) == ("66.0", "66.0", "1.000")
    assert (row["bytes out"], row["mAP"], row["proofs"]) == ("20,000", "0.480", "valid")
    assert row["metric"] == "delay p90: not measured (too few)"


def test_a_sweep_over_one_rate_has_no_curves(results, tmp_path):
    raw = json.loads((tmp_path / "sweep.json").read_text())
    raw["cells"] = [cell for cell in raw["cells"] if cell["settings"]["link_rate"] in ("", "10mbit")]
    (tmp_path / "sweep.json").write_text(json.dumps(raw))
    names = [drawing[0] for drawing in sweep_drawings(SweepResults.load(tmp_path))]
    assert names == ["accuracy-over-bytes-0"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 99, "cells": []}'])
def test_a_damaged_sweep_is_said_in_one_sentence(text, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ReportError, match=r"sweep\.json .* run the sweep again"):
        SweepResults.load(tmp_path)


def test_many_runs_share_rows_and_have_no_figures_of_their_own(tmp_path):
    for rate in ("1mbit", "2mbit", "3mbit"):
        for repeat in range(6):
            command = f"splitrail run --placement backbone --link-rate {rate}"
            write_run(tmp_path / rate / f"repeat-{repeat}", num=12, period_ms=40 + repeat, command=command)
    runs = find_runs([tmp_path])
    (series,) = series_of(runs).values()
    chosen = representatives(list(series.values()))
    assert {run.folder.name for run in chosen} <= {"repeat-2", "repeat-3"}
    report = make_report(runs)
    assert len(report.runs) == 3
    # Few rows are left, so they are drawn after all.
    assert all(len(section.figures) == 2 for section in report.runs)
    said = " ".join(report.sections[0].sentences)
    assert "show of each series of repeats the median one" in said
    assert len(report.sections[0].tables[0].rows) == 18


def test_what_a_placement_does_not_have_tells_no_run_apart(tmp_path):
    write_run(tmp_path / "one", num=12)
    alone = {"edges": {}, "clocks": {}, "chain": [[0, "source+preprocess+network+sink"]], "far_host": "edge"}
    write_run(tmp_path / "two", num=12, placement="full", **alone)
    names = sorted(run.name.removesuffix(" *") for run in find_runs([tmp_path]))
    assert names == ["backbone", "full"]


def test_the_quality_of_a_jpeg_and_the_cut_are_told(tmp_path):
    for quality in (50, 90):
        command = f"splitrail run --placement offload --jpeg-quality {quality}"
        edges = {"0": "0->1 jpeg", "1": RESULT}
        write_run(tmp_path / f"q{quality}", num=12, placement="offload", edges=edges, command=command)
    for cut in ("c5_fp16", "features_uint6_zstd+features_scale"):
        write_run(tmp_path / cut, num=12, edges={"0": f"0->1 {cut}", "1": RESULT})
    names = {run.name.removesuffix(" *") for run in find_runs([tmp_path])}
    assert names == {"offload, JPEG q50", "offload, JPEG q90", "backbone, cut C5", "backbone, cut projection"}
