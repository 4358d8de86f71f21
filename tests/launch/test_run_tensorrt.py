"""A whole run on the recorded fakes of TensorRT and pycuda (`tests/stages/fakes`), and what a user sees where it cannot be."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from host_kernels import compiler

FAKES = Path(__file__).parent.parent / "stages" / "fakes"
TESTS = Path(__file__).parent.parent

pytestmark = [pytest.mark.mpi, pytest.mark.skipif(compiler() is None, reason="no C compiler with half floats here")]


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path):
    folders = (FAKES / "shared", FAKES / "tensorrt_8_2", TESTS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_run_of_two_ranks_finds_what_another_engine_finds(splitrail_run):
    ours = splitrail_run("--no-video", engine="tensorrt:fp32", wire="uint8", out="ours")
    assert ours.code == 0, ours.err
    theirs = splitrail_run("--no-video", engine="onnxruntime", wire="uint8", out="theirs")
    assert len(ours.frames) == len(theirs.frames)
    num_detections = 0
    for one, other in zip(ours.frames, theirs.frames, strict=True):
        assert len(one["detections"]) == len(other["detections"])
        for a, b in zip(one["detections"], other["detections"], strict=True):
            num_detections += 1
            assert a["label"] == b["label"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-3)
    assert num_detections > 0
    assert "engine: building backbone in fp32 with TensorRT 8.2.1.8" in ours.err
    assert [rank["engine"] for rank in ours.summary["ranks"]] == ["tensorrt", "tensorrt"]


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ({"FAKE_GPU": "no device"}, "there is no GPU 0 to run on (cuInit failed"),
        ({"FAKE_TENSORRT": "lacks Softmax"}, "could not find plugin: Softmax"),
        ({"FAKE_TENSORRT": "no memory"}, "end what else uses the GPU, or take fp16 or a smaller size"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_code_2(splitrail_run, monkeypatch, trouble, sentence):
    for name, value in trouble.items():
        monkeypatch.setenv(name, value)
    outcome = splitrail_run("--no-video", engine="tensorrt:fp32")
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("splitrail: ")]
    assert sentence in line


def test_a_cached_engine_of_another_version_is_named(splitrail_run, tmp_path):
    assert splitrail_run("--no-video", engine="tensorrt:fp32", out="first").code == 0
    (plan,) = (tmp_path / "cache" / "splitrail" / "tensorrt").glob("backbone-*.plan")
    first, _, body = plan.read_bytes().partition(b"\n")
    inner, _, graph = body.partition(b"\n")
    body = json.dumps(json.loads(inner) | {"version": "8.0.1.6"}).encode() + b"\n" + graph
    header = json.loads(first) | {"plan_sha256": hashlib.sha256(body).hexdigest()}
    plan.write_bytes(json.dumps(header).encode() + b"\n" + body)
    outcome = splitrail_run("--no-video", engine="tensorrt:fp32", out="second")
    assert outcome.code == 2
    assert f"{plan} is not one for TensorRT 8.2.1.8 on this GPU" in outcome.err
    assert "delete that file, and it is built again" in outcome.err
    plan.unlink()
    assert splitrail_run("--no-video", engine="tensorrt:fp32", out="third").code == 0
