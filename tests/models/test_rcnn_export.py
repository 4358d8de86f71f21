"""R-CNNs as bundles: the graphs are the model, in every wire type, also where nothing is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from splitrail.models.engine import open_torch_engine
from splitrail.models.export import ExportOptions, export_bundle, write_bundle
from splitrail.models.names import model_config
from splitrail.models.onnx_graph import ExportError, _check_detections
from splitrail.models.rcnn import Rcnn
from splitrail.models.rcnn_config import RcnnConfig
from splitrail.models.rcnn_init import random_rcnn
from splitrail.stages.agreement import agreement_of
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import decode, encode

SMALL = {"width": 8, "fpn": 16, "box_head": 24, "short_side": 96, "max_long_side": 160}
BUNDLES = {
    "faster-fixed": ("faster-rcnn-resnet50", {"size": (96, 120), "bottleneck": 6}),
    "mask-dynamic": ("mask-rcnn-resnet18", {"size": None, "bottleneck": 3, "opset": 13}),
    "keypoint-l0": ("keypoint-rcnn-resnet18", {"size": (64, 96), "include_torch": True}),
    "mask-whole": ("mask-rcnn-resnet18", {"size": (64, 96), "split": "input"}),
}
_made: dict[str, tuple[Bundle, Path]] = {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("bundles")


def bundle_of(name: str, root: Path) -> tuple[Bundle, Path]:
    if name not in _made:
        detector, options = BUNDLES[name]
        sides = {key: SMALL[key] for key in ("short_side", "max_long_side")}
        export_bundle(detector, root / name, overrides=SMALL, **sides, **options)  # type: ignore[arg-type]
        _made[name] = Bundle.load(root / name), root / name
    return _made[name]


def run(bundle: Bundle, folder: Path, frame: dict[str, np.ndarray], wire: str) -> dict[str, np.ndarray]:
    tensors = dict(frame)
    for stage in bundle.stages:
        session = onnxruntime.InferenceSession(str(folder / stage.graph), providers=["CPUExecutionProvider"])
        names = [tensor.name for tensor in stage.outputs]
        tensors |= zip(names, session.run(names, {t.name: tensors[t.name] for t in stage.inputs}), strict=True)
        for name in stage.wire_tensors:
            suffixes = {"fp32": ("",), "fp16": ("_fp16",), "uint8": ("_uint8", "_scale", "_zero_point")}[wire]
            if wire != "fp32":
                expected = encode(tensors[name], wire)  # type: ignore[arg-type]
                for suffix in suffixes:
                    np.testing.assert_array_equal(tensors[name + suffix], expected[suffix])
            tensors[name] = decode({suffix: tensors[name + suffix] for suffix in suffixes}, wire)  # type: ignore[arg-type]
    return tensors


@pytest.mark.parametrize("name", sorted(BUNDLES))
def test_the_graphs_give_what_torch_gave(name: str, root: Path) -> None:
    bundle, folder = bundle_of(name, root)
    golden = bundle.golden_frames(folder)
    actual = [run(bundle, folder, frame, "fp32") for frame in golden]
    assert agreement_of(bundle, golden, actual, "fp32").disagreement == ""
    for frame, other in zip(golden, actual, strict=True):
        assert len(frame["det_scores"]) > 0
        last = [tensor.name for tensor in bundle.stages[-1].outputs]
        if len(frame["det_scores"]) == len(other["det_scores"]) and (frame["det_labels"] == other["det_labels"]).all():
            for tensor in last:
                np.testing.assert_allclose(other[tensor], frame[tensor], atol=2e-2, rtol=1e-2)
    assert any(np.array_equal(g["det_labels"], a["det_labels"]) for g, a in zip(golden, actual, strict=True))


@pytest.mark.parametrize("wire", ["fp16", "uint8"])
def test_the_head_offers_the_bytes_of_the_codec(wire: str, root: Path) -> None:
    bundle, folder = bundle_of("faster-fixed", root)
    run(bundle, folder, bundle.golden_frames(folder)[1], wire)


def test_the_manifest_says_what_it_is(root: Path) -> None:
    bundle, _ = bundle_of("faster-fixed", root)
    head, tail = bundle.stages
    assert (head.name, tail.name) == ("compressor", "detector_tail")
    assert bundle.preprocess.kind == bundle.postprocess.kind == "rcnn"
    assert bundle.preprocess.pixel_size == (96, 128)
    assert head.inputs[0].shape == (1, 96, 128, 3)
    assert head.inputs[0].dtype == "float32"
    assert head.outputs[0].shape == (1, 6, 28, 36)
    assert head.max_wire_bytes == 4 * 6 * 28 * 36
    assert [tensor.shape for tensor in tail.outputs] == [("detections", 4), ("detections",), ("detections",)]
    assert head.num_parameters > 0
    assert bundle.classes[1] == "person"
    masks, _ = bundle_of("mask-dynamic", root)
    assert masks.opset == 13
    assert masks.postprocess.masks
    assert masks.stages[0].inputs[0].shape == (1, "height", "width", 3)
    keypoints, _ = bundle_of("keypoint-l0", root)
    assert keypoints.classes == ("background", "person")
    assert keypoints.postprocess.num_keypoints == 17
    assert [stage.name for stage in keypoints.stages] == ["stem", "detector_tail"]
    whole, _ = bundle_of("mask-whole", root)
    assert [stage.name for stage in whole.stages] == ["detector"]


def test_no_wire_tensor_exceeds_its_bound_for_dynamic_sizes(root: Path) -> None:
    bundle, folder = bundle_of("mask-dynamic", root)
    for frame in bundle.golden_frames(folder):
        assert frame["bottleneck"].nbytes <= bundle.stages[0].max_wire_bytes
    pre = bundle.preprocess
    height, width = pre.padded((pre.short_side, pre.max_long_side))
    assert bundle.stages[0].max_wire_bytes == 4 * 3 * (height // 4 + 4) * (width // 4 + 4)


@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_a_graph_that_finds_nothing_gives_empty_arrays(kind: str, root: Path) -> None:
    config = model_config(f"{kind}-rcnn-resnet18", SMALL)
    assert isinstance(config, RcnnConfig)
    rcnn = random_rcnn(config, 0)
    with torch.no_grad():
        rcnn.roi_heads.box_predictor.cls_score.bias[0] = 100.0
    folder = root / f"nothing-{kind}"
    bundle = write_bundle(rcnn, "nothing", folder, ExportOptions(size=(64, 64), num_golden=1))
    tensors = run(bundle, folder, bundle.golden_frames(folder)[0], "fp32")
    assert [len(tensors[each.name]) for each in bundle.stages[-1].outputs] == [0] * len(bundle.stages[-1].outputs)


def test_the_torch_engine_runs_it(root: Path) -> None:
    bundle, folder = bundle_of("keypoint-l0", root)
    frame = bundle.golden_frames(folder)[0]
    tensors = dict(frame)
    for index, stage in enumerate(bundle.stages):
        outputs = [tensor.name for tensor in stage.outputs if tensor.name in frame]
        engine = open_torch_engine(folder, bundle, index, 1, outputs=outputs)
        tensors |= engine.run({tensor.name: tensors[tensor.name] for tensor in stage.inputs}, outputs)
        engine.close()
    for name, expected in frame.items():
        np.testing.assert_allclose(tensors[name], expected, atol=1e-5)


def test_a_graph_that_finds_something_else_is_refused() -> None:
    found = {
        "det_boxes": np.array([[0, 0, 10, 10]], np.float32),
        "det_scores": np.array([0.9], np.float32),
        "det_labels": np.array([1]),
    }
    _check_detections(Path("g.onnx"), found, found)
    with pytest.raises(ExportError, match="no counterpart"):
        _check_detections(Path("g.onnx"), found, found | {"det_labels": np.array([2])})


def test_training_mode_of_the_model_stays(root: Path) -> None:
    config = model_config("faster-rcnn-resnet18", SMALL)
    rcnn = Rcnn(config).train()  # type: ignore[arg-type]
    state = {name: value.clone() for name, value in rcnn.state_dict().items()}
    write_bundle(rcnn, "t", root / "training", ExportOptions(size=(64, 64), num_golden=1))
    assert rcnn.training
    assert all(torch.equal(value, state[name]) for name, value in rcnn.state_dict().items())
