"""`--nms-iou` of `run`, `evaluate` and `export`: the same suppression wherever it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from splitrail.bench.bundle_accuracy import evaluate_bundle
from splitrail.bench.pictures import Picture
from splitrail.launch.cli import main
from splitrail.launch.config import RunConfig
from splitrail.pipeline.errors import ConfigError
from splitrail.pipeline.packet import Packet
from splitrail.stages.bundle import Bundle
from splitrail.stages.engines.registry import open_engine
from splitrail.stages.network import Network, outputs_of
from splitrail.stages.postprocess import open_postprocess
from splitrail.stages.preprocess import Preprocess
from splitrail.stages.source import SourceOptions, open_source
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

IOU = 0.2


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A bundle that finds the same thing several times, and says that this is to be suppressed."""
    folder = tmp_path_factory.mktemp("crowded")
    bundle = make_synthetic_bundle(folder, num_classes=2, num_queries=12)
    spec = bundle.postprocess.model_copy(update={"nms_iou": IOU})
    bundle.model_copy(update={"postprocess": spec}).save(folder)
    return folder


@pytest.fixture(scope="module")
def detect(crowded):
    """Image -> detections, computed here, with the suppression given or without."""
    bundle = Bundle.load(crowded)
    graphs = []
    for index, graph in enumerate(bundle.stages):
        engine = open_engine("onnxruntime", "fp32", crowded, bundle, index, outputs_of(graph, None), 1)
        graphs.append(Network(engine, graph, None))

    def run(image, nms_iou, threshold):
        packet = Packet(0, 0, 0, image.shape[:2], tensors={"image": image})
        spec = bundle.postprocess.model_copy(update={"nms_iou": nms_iou})
        for stage in (Preprocess(bundle.preprocess), *graphs, open_postprocess(spec, threshold)):
            stage.process(packet)
        return {name: array.copy() for name, array in packet.tensors.items()}

    return run


@pytest.mark.mpi
@pytest.mark.parametrize(("asked", "iou"), [((), IOU), (("--nms-iou", "off"), None)])
def test_a_run_suppresses_as_the_bundle_says_or_as_asked(splitrail_run, clip, crowded, detect, asked, iou):
    outcome = splitrail_run(
        "--no-video", "--threads", "1", "--max-frames", "4", *asked, bundle=crowded, placement="full", wire="fp32"
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    source = open_source(str(clip), SourceOptions(max_frames=4))
    others = 0
    for frame in outcome.frames:
        image = source.receive().tensors["image"]
        here = detect(image, iou, 0.2)
        others += len(here["scores"]) != len(detect(image, IOU if iou is None else None, 0.2)["scores"])
        assert [found["score"] for found in frame["detections"]] == pytest.approx(here["scores"].tolist(), abs=1e-5)
        np.testing.assert_allclose([found["box"] for found in frame["detections"]], here["boxes"], atol=0.0051)
    source.close()
    assert others == len(outcome.frames) == 4


def test_an_evaluation_suppresses_as_the_bundle_says_or_as_asked(crowded, detect):
    class Pictures:
        """The truth is what the detector finds with suppression."""

        classes = Bundle.load(crowded).classes

        def __len__(self):
            return 3

        def picture(self, index, epoch):
            image = np.random.default_rng(index).integers(0, 256, (60, 90, 3), np.uint8)
            found = detect(image, IOU, 0.0)
            return Picture(image, found["boxes"], found["labels"])

    def judged(nms_iou):
        return evaluate_bundle(crowded, Pictures(), 3, nms_iou=nms_iou).boxes.map

    assert judged(None) == judged(IOU) == 1.0
    assert judged("off") < 1.0


def test_what_makes_no_sense_is_refused_at_once(crowded, tmp_path, capsys):
    source = ["--source", "x.mp4", "--out", str(tmp_path / "out")]
    assert main(["run", "--bundle", str(crowded), *source, "--nms-iou", "7"]) == 2
    assert "the options: 'nms_iou': a largest IoU of '7' is neither in (0, 1] nor off" in _one_line(capsys)
    assert main(["evaluate", str(crowded), "--nms-iou", "on"]) == 2
    assert "'on' is neither in (0, 1] nor off" in _one_line(capsys)
    assert main(["export", "detr-resnet-18", "--nms-iou", "0", "--out", str(tmp_path / "bundle")]) == 2
    assert "0.0 is neither in (0, 1] nor off" in _one_line(capsys)
    run = tmp_path / "run"
    run.mkdir()
    (run / "detections.jsonl").write_text("")
    assert main(["evaluate", str(run), "--nms-iou", "0.7"]) == 2
    assert "give --nms-iou to 'splitrail run'" in _one_line(capsys)
    bundle = Bundle.load(crowded)
    spec = bundle.postprocess.model_copy(update={"kind": "rcnn", "max_detections": 9, "nms_iou": None})
    bundle.model_copy(update={"postprocess": spec}).save(tmp_path)
    assert main(["run", "--bundle", str(tmp_path), *source, "--nms-iou", "off"]) == 2
    assert "--nms-iou is for a DETR" in _one_line(capsys)


def _one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_the_configuration_keeps_it(tmp_path):
    given = {"source": {"uri": "x"}, "out": "y"}
    for value, kept in ((None, None), ("off", "off"), ("0.7", 0.7), (0.7, 0.7)):
        config = RunConfig.check({**given, "nms_iou": value}, "the test")
        assert config.nms_iou == kept
        assert RunConfig.check(json.loads(config.model_dump_json()), "again") == config
    file = tmp_path / "run.toml"
    file.write_text("out = 'y'\nnms_iou = 1.5\n[source]\nuri = 'x'\n")
    with pytest.raises(ConfigError, match=r"run\.toml: 'nms_iou': a largest IoU of 1\.5"):
        RunConfig.load(file)


def test_a_camera_slower_than_the_stall_timeout_is_refused():
    given = {"source": {"uri": "x", "rate_fps": 0.01}, "out": "y"}
    with pytest.raises(
        ConfigError, match=r"at 0\.01 FPS a frame comes every 100 s, .* give --stall-timeout more than 100"
    ):
        RunConfig.check(given, "the test")
    assert RunConfig.check({**given, "stall_timeout_s": 101}, "the test").stall_timeout_s == 101
