"""Whole sweeps of real runs: the table, what fails, what a kill leaves, and what goes on from there."""

import csv
import json
import signal
import subprocess
import time
from itertools import pairwise

import pytest
from run_support import all_gone, command, descendants, splitrail

from splitrail.bench.record import Record
from splitrail.bench.sweep_file import Sweep

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def sweep_file(tmp_path, bundle, clip):
    """Writes a sweep of the tiny bundle and clip; `text` is what comes behind its base."""

    def write(text, base="", name="sweep.toml"):
        path = tmp_path / name
        path.write_text(
            f'name = "tiny"\n{text.partition("[")[0]}\n[base]\nbundle = "{bundle}"\nsource = "{clip}"\nframes = 24\n'
            f'engine = "onnxruntime"\nthreads = 1\n{base}\n[{text.partition("[")[2]}'
        )
        return path

    return write


def bench(path, *arguments):
    return splitrail("bench", "--sweep", path, *arguments)


def records(out):
    return {path.relative_to(out): path.read_bytes() for path in out.glob("cells/*/*/record.json")}


@pytest.mark.mpi
def test_a_failed_cell_is_a_row_and_the_others_are_run(sweep_file, tmp_path, clip):
    path = sweep_file(
        f"""repeats = 2
[[grid]]
placement = ["full", "three-ranks"]
[[grid]]
placement = "backbone"
source = ["{clip}", "{tmp_path}/missing.avi"]
"""
    )
    result = bench(path, "--out", tmp_path / "out", "--json")
    assert result.code == 1, result.err
    content = json.loads(result.out)
    assert content == json.loads((tmp_path / "out" / "sweep.json").read_text())
    by_name = {(cell["settings"]["placement"], cell["settings"]["source"]): cell for cell in content["cells"]}
    assert len(by_name) == 4
    assert "placement three-ranks runs the graphs" in by_name["three-ranks", str(clip)]["reason"]
    missing = by_name["backbone", f"{tmp_path}/missing.avi"]
    assert missing["status"] == "failed"
    assert "missing.avi' does not exist" in missing["reason"]
    for placement in ("full", "backbone"):
        cell = by_name[placement, str(clip)]
        # Too few frames to be stable: a row, and no result.
        assert cell["status"] == "invalid"
        assert "stability" in cell["reason"]
        assert [repeat["values"]["num_results"] for repeat in cell["repeats"]] == [24, 24]
        assert cell["values"]["fps"]["min"] <= cell["values"]["fps"]["median"] <= cell["values"]["fps"]["max"]
    with (tmp_path / "out" / "sweep.csv").open() as file:
        assert [line["status"] for line in csv.DictReader(file)].count("failed") == 2
    assert (content["num_finished"], content["num_failed"]) == (4, 4)
    record = Record.load(tmp_path / "out" / by_name["full", str(clip)]["repeats"][0]["folder"] / "record.json")
    assert (record.scenario, record.settings["placement"]) == ("offline", "full")
    # The same run can be made by hand: the command is in the record.
    assert record.command.startswith("splitrail run --placement full")


@pytest.mark.mpi
def test_a_killed_sweep_goes_on_where_it_stopped(sweep_file, tmp_path):
    path = sweep_file('repeats = 2\n[[grid]]\nplacement = ["full", "backbone"]\n')
    out = tmp_path / "out"
    order = [trial.folder for trial in Sweep.load(path).trials()]
    process = subprocess.Popen(
        command("bench", "--sweep", path, "--out", out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 200
        while not (out / order[1] / "mpirun.log").exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        family = descendants(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert all_gone(family, timeout_s=15)
    kept = records(out)
    assert order[0] / "record.json" in kept
    content = json.loads((out / "sweep.json").read_text())
    assert content["num_finished"] == len(kept) < 4
    # What it left half-written is made again from the start.
    half = next(folder for folder in order if folder / "record.json" not in kept)
    (out / half).mkdir(parents=True, exist_ok=True)
    (out / half / "left-over").touch()
    result = bench(path, "--out", out)
    assert result.code == 0, result.err
    assert f"{len(kept)} of 4 runs are finished and kept" in result.err
    after = records(out)
    assert set(after) == {folder / "record.json" for folder in order}
    assert {place: after[place] for place in kept} == kept
    assert not (out / half / "left-over").exists()
    assert json.loads((out / "sweep.json").read_text())["num_finished"] == 4
    # Finished: nothing is run any more.
    assert bench(path, "--out", out).code == 0
    assert records(out) == after


@pytest.mark.mpi
@pytest.mark.netns
def test_every_scenario_over_a_link_with_the_embedded_bundle(tmp_path):
    from splitrail.launch.netns import TwoHosts
    from splitrail.pipeline.errors import HostError

    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    path = tmp_path / "scenarios.toml"
    path.write_text(
        """
[base]
bundle = "demo"
engine = "onnxruntime"
threads = 1
source = "scenes:size=96x128,frames=200"
link_rate = "50mbit"
[[grid]]
placement = "offload"
encoding = ["raw", "jpeg:75"]
scenario = "single-stream"
frames = 72
[[grid]]
placement = "backbone"
scenario = "camera"
rate_fps = 500
frames = 200
[[grid]]
placement = "backbone"
wire = "uint8"
frames = 24
"""
    )
    result = bench(path, "--out", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    single, single_jpeg, camera, offline = json.loads(result.out)["cells"]
    for cell in (single, single_jpeg):
        assert cell["facts"]["metric"] == "delay p90"
        assert cell["values"]["metric_value"]["median"] == cell["values"]["delay_p90_ms"]["median"]
        # One frame at a time: the next is captured when the result of the one before is there.
        journal = tmp_path / "out" / cell["repeats"][0]["folder"] / "journal-rank0.jsonl"
        fates = [line for text in journal.read_text().splitlines() if (line := json.loads(text))["e"] == "fate"]
        assert len(fates) == 72
        assert all(after["c"] >= before["t"] for before, after in pairwise(fates))
        assert cell["formula_delay_ms"] > 0
    assert single["values"]["bytes_out_per_frame"]["median"] >= 96 * 128 * 3
    assert single_jpeg["values"]["bytes_out_per_frame"]["median"] < 0.5 * 96 * 128 * 3
    assert camera["facts"]["metric"].startswith("age of a result")
    assert camera["values"]["dropped_share"]["median"] > 0
    assert "of the frames dropped" in camera["facts"]["metric_note"]
    assert camera["formula_delay_ms"] is None
    assert offline["facts"]["metric"] == "throughput"
    assert offline["values"]["metric_value"]["median"] == offline["values"]["fps"]["median"]
    folder = tmp_path / "out" / single_jpeg["repeats"][0]["folder"]
    config = json.loads((folder / "run.json").read_text())
    assert (config["single_stream"], config["jpeg_quality"], config["sink"]["video"]) == (True, 75, False)
    summary = json.loads((folder / "summary.json").read_text())
    assert [rank["host"] for rank in summary["ranks"]] == ["edge", "workstation"]
    assert summary["wire_proof"]["interface_bytes"] >= summary["wire_proof"]["payload_bytes"]
    begin = json.loads((folder / "journal-rank1.jsonl").read_text().splitlines()[0])
    # The bundle is on the far host before: on a slow link it would travel for minutes.
    assert begin["bundle_was_sent"] is False


@pytest.mark.mpi
def test_the_report_of_a_sweep_has_its_table(sweep_file, tmp_path, monkeypatch):
    path = sweep_file('[[grid]]\nplacement = ["full", "offload"]\nscenario = "single-stream"\n')
    assert bench(path, "--out", tmp_path / "out").code == 0
    # With the user's own cache: an empty one makes matplotlib look for fonts first.
    monkeypatch.delenv("XDG_CACHE_HOME")
    result = splitrail("report", tmp_path / "out")
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Sweep tiny" in page
    assert "measured / formula" in page
    assert "offload, raw" in page
    assert "random weights" in page


def test_two_sweeps_in_one_folder_are_refused(sweep_file, tmp_path):
    import fcntl

    path = sweep_file('[[grid]]\nplacement = "full"\n')
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = bench(path, "--out", out)
    assert result.code == 2
    assert "another sweep is at work" in result.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[grid]]\nplacment = "full"\n', "did you mean 'placement'?"),
        ('[[grid]]\nplacement = "sideways"\n', "no placement 'sideways'"),
        ('[[grid]]\nwire = "fp8"\n', "'wire'"),
        ('[[grid]]\nlink_rate = "fast"\n', "link rate 'fast' is not a rate"),
        ('[[grid]]\nlink_delay = "soon"\n', "link delay 'soon' is not a time"),
        ("[base2]\n", "unknown key 'base2'"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_before_anything_runs(sweep_file, tmp_path, text, words):
    result = bench(sweep_file(text), "--out", tmp_path / "out")
    assert result.code == 2
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_is_missing_is_named(tmp_path):
    path = tmp_path / "none.toml"
    path.write_text('[base]\nbundle = "nowhere"\n')
    result = bench(path, "--out", tmp_path / "out")
    assert result.code == 2
    assert "no bundle at nowhere" in result.err


def test_a_detector_that_cannot_be_exported_ends_the_sweep(tmp_path):
    path = tmp_path / "none.toml"
    path.write_text('[base]\ndetector = "detr-resnet-49"\nplacement = "full"\n')
    result = bench(path, "--out", tmp_path / "out")
    assert result.code == 2
    assert "detr-resnet-49 could not be exported" in result.err


def test_bench_alone_shows_its_help():
    result = splitrail("bench")
    assert result.code == 0
    assert "--sweep" in result.out
    assert "overlap" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quick"], "--quick is of a sweep and there is none; give --sweep FILE.toml"),
        (["--out", "somewhere"], "--out is of a sweep and there is none"),
        (["--quick", "overlap"], "--quick before 'overlap' is of a sweep"),
        (["--sweep", "link-rates", "wire", "--source", "x"], "--sweep before 'wire' is of a sweep"),
    ],
)
def test_a_sweep_s_option_without_a_sweep_is_refused(arguments, words):
    result = splitrail("bench", *arguments)
    assert result.code == 2
    assert words in result.err
    assert (result.out, result.err.count("\n")) == ("", 1)
