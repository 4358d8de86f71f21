"""What a sweep says of its runs: rows from journals with known times, the formula beside them, and the tables as files."""

import csv
import json
import math

import pytest
from journal_support import write_run

from splitrail.bench.record import Record
from splitrail.bench.sweep_cell import Cell
from splitrail.bench.sweep_file import Sweep, Trial
from splitrail.bench.sweep_formula import formula_delays_ms
from splitrail.bench.sweep_results import SweepResults, methods_of
from splitrail.bench.sweep_row import RECORD, VALUES, Row, is_finished, read_row
from splitrail.bench.sweep_table import collect, print_results, write_tables

SETTINGS = {"bundle": "demo", "scenario": "single-stream"}


def finished(folder, trial, **run):
    write_run(folder, **run)
    Record.of_run(folder, trial.cell.folder, trial.cell.settings, scenario=trial.cell.scenario).save(folder / RECORD)
    return folder


def row(cell, repeat=1, status="valid", reason="", **values):
    return Row(
        Trial(cell, repeat), status, reason, {**dict.fromkeys(VALUES), **values}, {"weights": "w", "metric": "m"}
    )


def test_a_row_has_what_the_journals_have(tmp_path):
    trial = Trial(Cell(**SETTINGS, link_rate="1mbit"), 1)
    folder = finished(tmp_path / "run", trial, num=105)
    found = read_row(folder, trial, "trained here")
    assert set(found.values) == set(VALUES)
    # write_run: capture 4, preprocess 2, backbone 20, credit 1, link 10, transformer 8, postprocess 1, back in 1.
    assert found.values["capture_ms"] == pytest.approx(4)
    assert found.values["edge_ms"] == pytest.approx(22)
    assert found.values["far_ms"] == pytest.approx(9)
    assert found.values["link_ms"] == pytest.approx(11)
    assert found.values["waiting_ms"] == pytest.approx(1)
    assert found.values["delay_mean_ms"] == pytest.approx(47)
    assert found.values["delay_p90_ms"] == pytest.approx(47)
    assert found.values["fps"] == pytest.approx(25)
    assert (found.values["bytes_out_per_frame"], found.values["bytes_back_per_frame"]) == (1000, 300)
    assert (found.values["edge_memory_mb"], found.values["far_memory_mb"]) == (100, 200)
    # The warm-up is left out: the first five.
    assert (found.values["num_results"], found.values["num_timed"]) == (105, 100)
    assert found.values["delay_p95_ms"] is None
    assert found.values["edge_power_w"] is None
    assert (found.facts["metric"], found.facts["weights"]) == ("delay p90", "trained here")
    assert found.values["metric_value"] == pytest.approx(47)
    assert found.values["map"] is None
    assert found.facts["map_note"] == "the source knows no truth"


def test_frames_that_the_filter_ends_save_bytes_and_time_in_a_row(tmp_path):
    trial = Trial(Cell(**SETTINGS, link_rate="1mbit"), 1)
    result = read_row(finished(tmp_path / "run", trial, num=100, is_empty=lambda frame: frame % 2 == 1), trial, "")
    assert (result.status, result.reason) == ("valid", "")
    found = result.values
    assert (found["num_results"], found["num_empty"], found["num_failed"]) == (100, 50, 0)
    # A header of 320 bytes for each empty one, there and back.
    assert (found["bytes_out_per_frame"], found["bytes_back_per_frame"]) == ((1000 + 320) / 2, (300 + 320) / 2)
    # Its times are of the same frames, empty ones too, and add up to the mean delay: 47 and 10 ms, of 47 and 48 results.
    assert found["delay_mean_ms"] == pytest.approx((47 * 47 + 48 * 10) / 95)
    parts = ("capture_ms", "edge_ms", "link_ms", "far_ms", "waiting_ms")
    assert sum(found[part] for part in parts) == pytest.approx(found["delay_mean_ms"])
    assert found["far_ms"] == pytest.approx(9 * 47 / 95)


def test_a_percentile_without_the_count_is_not_given(tmp_path):
    trial = Trial(Cell(**SETTINGS), 1)
    found = read_row(finished(tmp_path / "run", trial, num=40), trial, "")
    assert found.values["metric_value"] is None
    assert found.facts["metric_note"] == "it needs 64 results and there are 35"
    assert found.values["delay_p50_ms"] == pytest.approx(47)


def test_random_weights_get_no_accuracy(tmp_path):
    trial = Trial(Cell(**SETTINGS), 1)
    folder = finished(tmp_path / "run", trial)
    (folder / "summary.json").write_text(json.dumps({"accuracy": {"mAP": 0.4, "mAP@50": 0.6, "num_images": 7}}))
    trained = read_row(folder, trial, "a training")
    assert (trained.values["map"], trained.values["map_50"], trained.facts["map_note"]) == (0.4, 0.6, "over 7 frames")
    random = read_row(folder, trial, "")
    assert (random.values["map"], random.facts["weights"], random.facts["map_note"]) == (
        None,
        "random weights",
        "random weights",
    )


def test_a_run_without_its_proofs_is_invalid_and_keeps_its_numbers(tmp_path):
    trial = Trial(Cell(**SETTINGS), 1)
    found = read_row(finished(tmp_path / "run", trial, num=22), trial, "")
    assert found.status == "invalid"
    assert found.reason.startswith("stability: 17 results after the warm-up")
    assert found.values["fps"] == pytest.approx(25)


def test_only_a_run_with_a_record_is_finished(tmp_path):
    write_run(tmp_path / "run")
    assert not is_finished(tmp_path / "run")
    assert not is_finished(tmp_path / "none")
    assert is_finished(finished(tmp_path / "other", Trial(Cell(**SETTINGS), 1)))


def test_the_formula_is_computing_plus_bytes_over_rate():
    slow, fast = (Cell(**SETTINGS, link_rate=rate) for rate in ("1mbit", "10mbit"))
    far = Cell(**SETTINGS, link_rate="10mbit", link_delay="5ms")
    local, busy = Cell(**SETTINGS, placement="full"), Cell(bundle="demo", link_rate="1mbit")
    links = {slow: (1e6, 0.0), fast: (1e7, 0.0), far: (1e7, 5.0), local: (math.inf, 0.0), busy: (1e6, 0.0)}
    times = {"capture_ms": 1.0, "far_ms": 3.0, "bytes_out_per_frame": 12_000.0, "bytes_back_per_frame": 500.0}
    rows = [
        row(slow, edge_ms=10.0, **times),
        row(slow, 2, edge_ms=14.0, **times),
        row(fast, edge_ms=12.0, **times),
        row(far, edge_ms=12.0, **times),
        row(local, edge_ms=20.0, capture_ms=1.0, far_ms=0.0, bytes_out_per_frame=0.0, bytes_back_per_frame=0.0),
        # Frames that wait for others have a delay that no such formula gives.
        row(busy, edge_ms=10.0, **times),
    ]
    found = formula_delays_ms(rows, links)
    # Computing: the median over the rates, 1 + 12 + 3. Bytes: 8 x 12500 / rate.
    assert found == {
        slow: pytest.approx(16 + 100),
        fast: pytest.approx(16 + 10),
        far: pytest.approx(16 + 10 + 2 * 5),
        local: pytest.approx(21),
    }


def make_results(tmp_path, out="out"):
    """Four cells, two repeats: one valid, one invalid, one failed, one not run yet."""
    grid = [{"placement": "backbone", "link_rate": ["1mbit", "2mbit", "4mbit", "8mbit"]}]
    sweep = Sweep.check({"base": SETTINGS, "grid": grid, "repeats": 2}, "f", name="rates")
    one, two, three, _ = sweep.cells
    known = {
        "capture_ms": 0.0,
        "edge_ms": 5.0,
        "far_ms": 5.0,
        "bytes_out_per_frame": 1000.0,
        "bytes_back_per_frame": 0.0,
    }
    rows = [
        row(one, 2, fps=12.0, delay_mean_ms=20.0, **known),
        row(one, 1, fps=10.0, delay_mean_ms=18.0, **known),
        row(two, 1, fps=20.0, delay_mean_ms=14.0, map=0.25, **known),
        row(two, 2, "invalid", "stability: it wavers", fps=30.0, delay_mean_ms=15.0, map=0.35, **known),
        row(three, 1, "failed", "rank 1 on workstation: out of memory"),
    ]
    links = {cell: (1e6 * 2**number, 0.0) for number, cell in enumerate(sweep.cells)}
    results = collect(sweep, rows, links)
    folder = tmp_path / out
    folder.mkdir()
    write_tables(folder, sweep, results, quick=False, command="splitrail bench --sweep f")
    return sweep, results, folder


def test_the_tables_have_median_spread_and_reasons(tmp_path):
    _, results, folder = make_results(tmp_path)
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [line["status"] for line in rows] == ["valid", "invalid", "failed"]
    assert [line["reason"] for line in rows] == [
        "",
        "repeat 2: stability: it wavers",
        "rank 1 on workstation: out of memory",
    ]
    first = rows[0]
    assert (float(first["fps"]), float(first["fps_min"]), float(first["fps_max"])) == (11, 10, 12)
    assert (first["link_rate"], first["num_repeats"], first["map"]) == ("1mbit", "2", "")
    # 10 ms of computing and 8000 bits at 1 Mbit/s.
    assert float(first["formula_delay_ms"]) == pytest.approx(18)
    assert float(rows[1]["map"]) == pytest.approx(0.3)
    assert (rows[2]["fps"], rows[2]["formula_delay_ms"]) == ("", "")
    content = json.loads((folder / "sweep.json").read_text())
    assert (content["num_cells"], content["num_runs"], content["num_finished"], content["num_failed"]) == (4, 8, 4, 1)
    cell = content["cells"][0]
    assert cell["values"]["fps"] == {"median": 11, "min": 10, "max": 12}
    assert cell["values"]["map"] is None
    assert [repeat["values"]["fps"] for repeat in cell["repeats"]] == [10, 12]
    assert content["cells"][1]["repeats"][1]["status"] == "invalid"
    assert set(content["columns"]) == set(cell["values"]) <= set(first)
    assert [path.name for path in folder.iterdir() if path.suffix == ".partial"] == []
    assert [result.status for result in results] == ["valid", "invalid", "failed"]


def test_the_printed_table_stars_what_lacks_a_proof(tmp_path, capsys):
    from rich.console import Console

    sweep, results, _ = make_results(tmp_path)
    print_results(sweep, results, Console(width=200))
    text = capsys.readouterr().out
    assert "11.0 (10.0-12.0)" in text
    assert "25.0* (20.0-30.0)" in text
    assert "invalid: repeat 2: stability: it wavers" in text
    assert "failed: rank 1 on workstation: out of memory" in text
    assert "* lacks a proof" in text


def test_results_are_read_back_for_the_report(tmp_path):
    _, _, folder = make_results(tmp_path)
    found = SweepResults.load(folder)
    assert SweepResults.load(tmp_path) is None
    assert list(found.figures) == ["demo"]
    (method,) = methods_of(found.cells)
    assert method == "backbone, fp16"
    assert [cell.rate_bit_per_s for cell in found.cells] == [1e6, 2e6, 4e6]
    assert (found.cells[0].value("fps", "max"), found.cells[2].value("fps")) == (12, None)


def test_cells_of_several_detectors_share_figures_by_name(tmp_path):
    grids = [
        {"placement": "backbone", "wire": "uint8", "link_rate": "1mbit"},
        {
            "placement": "split",
            "wire": "uint8",
            "bundle": "small",
            "figure": "demo",
            "filter": [True, False],
            "link_rate": "1mbit",
        },
    ]
    sweep = Sweep.check({"base": SETTINGS, "grid": grids, "repeats": 1}, "f", name="rates")
    rows = [row(cell, fps=10.0, bytes_out_per_frame=100.0) for cell in sweep.cells]
    write_tables(
        tmp_path, sweep, collect(sweep, rows, dict.fromkeys(sweep.cells, (1000000.0, 0.0))), quick=False, command="x"
    )
    found = SweepResults.load(tmp_path)
    assert list(found.figures) == ["demo"]
    assert list(methods_of(found.figures["demo"])) == [
        "backbone, uint8",
        "split, uint8, small, filter",
        "split, uint8, small, no filter",
    ]
    assert {cell.detector for cell in found.cells} == {"demo", "small"}
