"""`splitrail plan --verify`: real runs, each with its prediction in its folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from adaptive_bundle import make_adaptive_bundle
from run_support import splitrail

from splitrail.bench.profile import StageTime
from splitrail.launch import plan_verify
from splitrail.launch.plan_verify import Verification, _scaled, choose_rows, own_times


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
    # The graphs of a narrower width have their own times in a profile, and the same names in a journal.
    assert time_of(1, "tail@0.5").solo_ms == time_of(1, "tail@0.5/uint8").solo_ms == 7


def test_engines_are_prepared_once_and_timed_before_each_row(monkeypatch, tmp_path):
    prepared, times_ms = [], iter((12.0, 9.0, 10.0))

    def prepare(*arguments):
        prepared.append(arguments)
        return SimpleNamespace(solo_chain_ms=lambda: {"head": next(times_ms)})

    done = SimpleNamespace(summary={"fps": 5.0, "delay": {"p50_ms": 3.0}}, work=[])
    monkeypatch.setattr(plan_verify, "prepare", prepare)
    monkeypatch.setattr(Verification, "_run", lambda self, *arguments: done)
    profile = SimpleNamespace(
        host="here",
        published="",
        images=SimpleNamespace(source="scenes"),
        engine="onnxruntime:fp32",
        device="cpu",
        threads=1,
        detector=lambda name: SimpleNamespace(stages={"head": StageTime(solo_ms=10)}),
    )
    will = SimpleNamespace(fps=1.0, delay_ms=1.0, queued_delay_ms=1.0)
    plan = SimpleNamespace(
        profiles=(profile, profile),
        detector="tiny",
        graphs=("head",),
        time_of=lambda: None,
        predict=lambda candidate, time_of: will,
    )
    rows = [SimpleNamespace(candidate=SimpleNamespace(folder=f"row-{n}", host_of_rank=(0, 1))) for n in range(3)]
    verified = Verification(plan, "tiny", tmp_path, 30, check_delay=False).run(rows, lambda text: None)
    assert [row.drift for row in verified] == [1.2, 0.9, 1.0]
    assert prepared == [("tiny", "onnxruntime:fp32", "cpu", 1, "scenes", 90, plan_verify._DRIFT_S)]


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rows_are_run_and_compared(bundle, clip, tmp_path):
    profile, out = tmp_path / "here.toml", tmp_path / "runs"
    result = splitrail(
        "bench", "profile", "--bundle", bundle, "--engine", "onnxruntime", "--threads", 1, "--source", clip,
        "--seconds", 0.2, "--out", profile,
    )  # fmt: skip
    assert result.code == 0, result.err
    arguments = ("--bundle", bundle, "--profile", profile, "--profile", profile, "--verify", "--frames", 30, "--json")
    refused = splitrail("plan", *arguments, "--only", "nothing-like-this", "--out", out)
    assert refused.code == 2
    assert "leaves nothing to run; the rows are" in refused.err
    result = splitrail("plan", *arguments, "--only", "full-on-workstation,fp16-jpeg", "--out", out)
    assert result.code == 0, result.err
    verified = json.loads(result.out)["verified"]
    assert {row["placement"] for row in verified} == {"full on workstation", "transformer"}
    for row in verified:
        assert row["fps_ratio"] == pytest.approx(row["measured_fps"] / row["fps"])
        assert row["delay_ratio"] == pytest.approx(row["measured_delay_ms"] / row["delay_ms"])
        assert row["drift"] > 0
        # Graphs of a millisecond: on a busy machine most of the delay is waiting for a core. How exact it is, docs/plan.md says.
        assert 0.3 < row["delay_by_own_times_ratio"] < 30
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


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rows_of_a_narrower_width_are_run_too(clip, tmp_path):
    make_adaptive_bundle(tmp_path / "bundle", accuracies=False)
    profile, out = tmp_path / "here.toml", tmp_path / "runs"
    result = splitrail(
        "bench", "profile", "--bundle", tmp_path / "bundle", "--engine", "onnxruntime", "--threads", 1, "--source", clip,
        "--seconds", 0.1, "--out", profile, "--no-coload",
    )  # fmt: skip
    assert result.code == 0, result.err
    result = splitrail(
        "plan", "--bundle", tmp_path / "bundle", "--profile", profile, "--profile", profile, "--verify", "--frames", 24, "--json",
        "--no-delay", "--no-drift", "--only", "x0.25-uint8,x0.5-fp16-jpeg", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    verified = {
        (row["placement"], row["width"], row["wire"], row["images"]): row for row in json.loads(result.out)["verified"]
    }
    assert set(verified) == {
        ("backbone", 0.25, "uint8", None),
        ("transformer", 0.25, "uint8", "raw"),
        ("transformer", 0.25, "uint8", "jpeg"),
        ("transformer", 0.5, "fp16", "jpeg"),
    }
    for (placement, width, wire, _), row in verified.items():
        assert row["measured_fps"] > 0
        assert row["fps_by_own_times_ratio"] > 0
        folder = next(path for path in out.glob(f"{placement}-*x{width:g}-{wire}*"))
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["counts"]["done"] == 24
        assert summary["adapt"]["policy"] == f"fixed:{width:g},{wire}"
        size = {"uint8": 1, "fp16": 2}[wire] * 16 * 8 * 12 * width
        (edge,) = (edge for edge in summary["edges"] if "features" in edge["name"])
        assert size + 320 <= edge["bytes_per_frame"] <= size + 640


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
