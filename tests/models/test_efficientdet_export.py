"""An EfficientDet as a bundle: what its graphs find is what effdet itself finds, and every width is the sliced network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_support import run

from splitrail.models.detector import for_inference, random_detector
from splitrail.models.efficientdet import EfficientDet
from splitrail.models.efficientdet_config import EfficientDetConfig
from splitrail.models.efficientdet_cut import split
from splitrail.models.export import ExportOptions, export_bundle, write_bundle
from splitrail.models.pixels import normalise
from splitrail.models.slimmable import sliced
from splitrail.models.weights import save_weights
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.agreement import agreement_of
from splitrail.stages.bundle import Bundle
from splitrail.stages.rcnn_postprocess import RcnnOutputs, rcnn_detections

pytest.importorskip("onnx")
torch.set_num_threads(1)
SIZE = (128, 128)
WIDTHS = (0.25, 1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("efficientdet")


@pytest.fixture(scope="module")
def plain(root: Path) -> tuple[Bundle, Path]:
    folder = root / "plain"
    export_bundle("efficientdet-d0", folder, size=SIZE, overrides={"num_classes": 5}, include_torch=True)
    return Bundle.load(folder), folder


@pytest.fixture(scope="module", params=["bandwidth", pytest.param("computation", marks=pytest.mark.slow)])
def slimmable(request: pytest.FixtureRequest, root: Path) -> tuple[Bundle, Path, EfficientDet]:
    config = EfficientDetConfig(0, 5, SIZE, bottleneck=10, widths=WIDTHS, configurable=request.param)
    model = for_inference(random_detector(config, 1))
    assert isinstance(model, EfficientDet)
    folder = root / request.param
    write_bundle(model, "small", folder, ExportOptions(include_torch=True))
    return Bundle.load(folder), folder, model


def test_it_finds_what_effdet_finds(plain: tuple[Bundle, Path], loaded: dict[str, Any]) -> None:
    import effdet
    from effdet.anchors import Anchors, generate_detections
    from effdet.bench import _post_process

    bundle, folder = plain
    assert [stage.name for stage in bundle.stages] == ["encoder", "detector_tail"]
    assert [stage.wire_tensors for stage in bundle.stages] == [("p3",), ()]
    assert bundle.stages[0].outputs[0].shape == (1, 40, 16, 16)
    assert bundle.stages[0].max_wire_bytes == 4 * 40 * 16 * 16
    assert (bundle.preprocess.kind, bundle.preprocess.size) == ("detr", SIZE)
    assert (bundle.postprocess.kind, bundle.postprocess.max_detections) == ("rcnn", 100)
    assert len(bundle.classes) == 6  # labels begin at 1
    settings = effdet.get_efficientdet_config("tf_efficientdet_d0")
    settings.image_size, settings.num_classes = SIZE, 5
    reference = effdet.EfficientDet(settings, pretrained_backbone=False).eval()
    ours = random_detector(EfficientDetConfig(0, 5, SIZE), 0)
    reference.load_state_dict(ours.state_dict())
    boxes = Anchors.from_config(settings).boxes
    for frame in bundle.golden_frames(folder):
        height, width = (int(side) for side in frame["valid_size"])
        with torch.inference_mode():
            images = normalise(torch.from_numpy(frame["pixels"]), torch.from_numpy(frame["valid_size"])[None])
            outputs = reference(images)
            classes, codes, indices, labels = _post_process(*outputs, num_levels=5, num_classes=5)
            size = torch.tensor([float(width), float(height)])
            theirs = generate_detections(
                classes[0], codes[0], boxes, indices[0], labels[0], torch.ones(1), size, max_det_per_image=100
            ).numpy()
        (found,) = run(bundle, folder, [frame], "onnxruntime", loaded)
        theirs = theirs[((theirs[:, 2:4] - theirs[:, :2]) >= 1e-2).all(axis=1)]
        assert len(found["det_scores"]) <= 100
        count = min(len(found["det_scores"]), len(theirs))
        assert count > 20
        found |= {name: found[name][:count] for name in ("det_boxes", "det_scores", "det_labels")}
        np.testing.assert_allclose(found["det_scores"], theirs[:count, 4], atol=1e-4)
        clear = np.diff(found["det_scores"], append=0) < -1e-4  # where the order is not a matter of rounding
        clear &= np.roll(clear, 1)
        assert clear.sum() > 10
        np.testing.assert_allclose(found["det_boxes"][clear], theirs[:count][clear, :4], atol=0.05)
        np.testing.assert_array_equal(found["det_labels"][clear], theirs[:count][clear, 5].astype(np.int64))
        detections = rcnn_detections(RcnnOutputs.from_tensors(found), (2 * height, 2 * width), (height, width), 0.0)
        np.testing.assert_allclose(detections.boxes, 2 * found["det_boxes"], atol=0.01)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_every_engine_agrees(plain: tuple[Bundle, Path], engine: str, loaded: dict[str, Any]) -> None:
    bundle, folder = plain
    golden = bundle.golden_frames(folder)
    actual = run(bundle, folder, golden, engine, loaded)
    assert agreement_of(bundle, golden, actual, "fp32").disagreement == ""
    if engine == "torch":
        for frame, found in zip(golden, actual, strict=True):
            for name in frame:
                np.testing.assert_array_equal(found[name], frame[name])


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_every_width_is_the_sliced_network(
    slimmable: tuple[Bundle, Path, EfficientDet], engine: str, loaded: dict[str, Any]
) -> None:
    bundle, folder, model = slimmable
    computation = model.config.configurable == "computation"
    names = ["compressor", "decompressor", "detector_tail"]
    assert [stage.name for stage in bundle.stages] == (names if computation else ["encoder", *names])
    assert bundle.num_head_stages == (1 if computation else 2)
    assert bundle.widths == WIDTHS
    assert all([stage.name for stage in each.stages] == names[:2] for each in bundle.narrower)
    for width in WIDTHS:
        view = bundle.at_width(width)
        fixed = sliced(model, width)
        assert isinstance(fixed, EfficientDet)
        (whole,) = split(fixed, ())
        golden = view.golden_frames(folder)
        assert golden[0]["bottleneck"].shape == (1, round(10 * width), 16, 16)
        for frame in golden:
            with torch.inference_mode():
                expected = whole.compute(torch.from_numpy(frame["pixels"]), torch.from_numpy(frame["valid_size"]))
            for name, value in zip(whole.fp32_names, expected, strict=True):
                np.testing.assert_array_equal(frame[name], value.numpy())
        actual = run(view, folder, golden, engine, loaded)
        assert agreement_of(view, golden, actual, "fp32").disagreement == ""
    if computation:
        assert bundle.at_width(0.25).stages[0].num_macs < 0.5 * bundle.stages[0].num_macs


@pytest.mark.slow
def test_weights_are_read_from_a_file(plain: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, _ = plain
    save_weights(random_detector(EfficientDetConfig(0, 5, SIZE), 0), tmp_path / "d0.safetensors")
    again = export_bundle(
        "efficientdet-d0",
        tmp_path / "b",
        weights=str(tmp_path / "d0.safetensors"),
        size=SIZE,
        overrides={"num_classes": 5},
    )
    assert again.golden_sha256 == bundle.golden_sha256
    assert again.trained == "d0.safetensors"


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    model = EfficientDet(EfficientDetConfig(0, 5, SIZE))
    with pytest.raises(ConfigError, match="reads 128x128; leave the size out"):
        write_bundle(model, "x", tmp_path / "b", ExportOptions(size=(256, 256)))
    with pytest.raises(ConfigError, match="5 class names were given for 6 classes"):
        write_bundle(model, "x", tmp_path / "b", ExportOptions(classes=tuple("abcde")))
    with pytest.raises(ConfigError, match="multiples of 128"):
        export_bundle("efficientdet-d0", tmp_path / "b", size=(480, 640))
    for options, words in (
        ({"split": "c5"}, "branches behind P3"),
        ({"overrides": {"num_queries": 5}}, "only num_classes can"),
        ({"cuts": ("bottleneck",)}, "there is no cut 'bottleneck'; choose among p3"),
    ):
        with pytest.raises(ConfigError, match=words):
            export_bundle("efficientdet-d0", tmp_path / "b", size=SIZE, **options)
    with pytest.raises(ConfigError, match="only an EfficientDet has"):
        export_bundle("detr-resnet-18", tmp_path / "b", split="p3")
