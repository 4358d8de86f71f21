"""`splitrail plan --verify`: real runs, each with its prediction in its folder."""

import json
import subprocess
from pathlib import Path

import pytest
from run_support import command

from splitrail.bench.profile import StageTime
from splitrail.launch.plan_verify import _scaled, choose_rows, own_times


def test_drift_scales_graphs_and_nothing_else():
    def time_of(host, stage):
        return StageTime(solo_ms=10.0, mean_ms=11.0, coload_ms=12.0)

    scaled = _scaled(time_of, ("head", "tail"), 1.5)
    for stage in ("head", "head/fp16", "tail"):
        assert scaled(0, stage) == StageTime(solo_ms=15.0, mean_ms=16.5, coload_ms=18.0)
    for stage in ("head/fp16/decode", "preprocess"):
        assert scaled(0, stage) == time_of(0, stage)


class _Run:
    """What `own_times` reads of a finished run."""

    def __init__(self, work):
        self.work = work


def test_own_times_are_those_of_the_journal_without_the_warm_up():
    from splitrail.bench.finished_run import Work

    work = [Work(1, "tail", frame, 0, (100 if frame < 5 else frame) * 10**6) for frame in range(10)]
    work += [Work(0, "jpeg_encode", frame, 0, 2 * 10**6) for frame in range(3)]
    work += [Work(1, "decode", frame, 0, 10**6) for frame in range(10)]
    time_of = own_times(_Run(work), (0, 1))
    assert time_of(1, "tail").solo_ms == 7
    assert time_of(1, "tail/uint8").mean_ms == 7
    assert time_of(0, "encode-jpeg/pixels").solo_ms == 2
    assert time_of(1, "head/fp16/decode").solo_ms == 1
    assert time_of(0, "network").solo_ms == 0


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rows_are_run_and_compared(bundle, clip, tmp_path):
    profile, out = tmp_path / "here.toml", tmp_path / "runs"
    result = _splitrail(
        "bench", "profile", "--bundle", bundle, "--engine", "onnxruntime", "--threads", 1, "--source", clip,
        "--seconds", 0.2, "--out", profile,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    arguments = ("--bundle", bundle, "--profile", profile, "--profile", profile, "--verify", "--frames", 30, "--json")
    refused = _splitrail("plan", *arguments, "--only", "nothing-like-this", "--out", out)
    assert refused.returncode == 2
    assert "leaves nothing to run; the rows are" in refused.stderr
    result = _splitrail("plan", *arguments, "--only", "full-on-workstation,fp16-jpeg", "--out", out)
    assert result.returncode == 0, result.stderr
    verified = json.loads(result.stdout)["verified"]
    assert {row["placement"] for row in verified} == {"full on workstation", "transformer"}
    for row in verified:
        assert row["fps_ratio"] == pytest.approx(row["measured_fps"] / row["fps"])
        assert row["delay_ratio"] == pytest.approx(row["measured_delay_ms"] / row["delay_ms"])
        assert row["drift"] > 0
    folders = sorted(path.name for path in Path(out).iterdir())
    assert len(folders) == 4
    for folder in folders:
        prediction = json.loads((out / folder / "prediction.json").read_text())
        summary = json.loads((out / folder / "summary.json").read_text())
        if folder.endswith("-camera"):
            assert set(prediction) == {"delay_ms"}
            assert summary["counts"]["done"] == 12
        else:
            assert prediction["fps"] in [row["fps"] for row in verified]
            assert summary["counts"]["done"] == 30
    transformer = json.loads(next(out.glob("transformer*jpeg/summary.json")).read_text())
    assert next(edge["name"] for edge in transformer["edges"]).endswith(" jpeg")


def _splitrail(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)


def test_only_picks_rows_by_words():
    class Candidate:
        def __init__(self, folder):
            self.folder = folder

    class Row:
        def __init__(self, folder):
            self.candidate = Candidate(folder)

    rows = [Row("full-on-edge"), Row("backbone-features-fp16"), Row("offload-raw")]
    assert choose_rows(rows, "") == rows
    assert choose_rows(rows, "backbone, raw") == rows[1:]
