from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitrail.bench.bundle_accuracy import evaluate_bundle, evaluate_settings
from splitrail.bench.pictures import Picture
from splitrail.bench.setting_tree import Computing, SettingTree
from splitrail.pipeline.errors import BundleError, ConfigError
from splitrail.pipeline.packet import Packet
from splitrail.stages.bundle import Bundle, WireType
from splitrail.stages.engines.registry import open_engine
from splitrail.stages.network import outputs_of
from splitrail.stages.postprocess import golden_detections
from splitrail.stages.preprocess import Preprocess
from splitrail.stages.setting import settings_of
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


class _Pictures:
    """Noise, whose truth is what the bundle itself finds in it."""

    def __init__(self, classes: tuple[str, ...], num: int = 4) -> None:
        self.classes = classes
        self._num = num

    def __len__(self) -> int:
        return self._num

    def picture(self, index: int, epoch: int) -> Picture:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        return Picture(image, np.array([[5, 5, 40, 40]], np.float32), np.array([index % len(self.classes)], np.int32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    make_synthetic_bundle(path, seed=1)
    return path


@pytest.mark.parametrize("wire", ["fp32", "fp16", "uint8", "uint6-channel", "uint4+zstd"])
def test_every_wire_type_is_judged_on_every_picture(folder: Path, wire: WireType) -> None:
    classes = Bundle.load(folder).classes
    seen: list[tuple[int, int]] = []
    judged = evaluate_bundle(folder, _Pictures(classes), 3, wire=wire, progress=lambda *at: seen.append(at))
    accuracy = judged.boxes
    assert accuracy.num_images == 3
    assert accuracy.num_objects == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert accuracy.map is not None
    assert 0 <= accuracy.map <= 1
    # 16 channels of 8 x 12 cells; parameters and gaps take less than 300 bytes.
    bits = {"fp32": 32, "fp16": 16, "uint8": 8, "uint6-channel": 6, "uint4+zstd": 4}[wire]
    num_bytes = 16 * 8 * 12 * bits / 8
    assert (0 if "zstd" in wire else num_bytes) <= judged.bytes_per_frame <= num_bytes + 300
    assert judged.num_empty == 0


class _HalfGrey(_Pictures):
    """Every second one has nothing in it."""

    def picture(self, index: int, epoch: int) -> Picture:
        picture = super().picture(index, epoch)
        if index % 2 == 0:
            return picture
        return Picture(np.full_like(picture.image, 128), picture.boxes[:0], picture.labels[:0])


def test_the_filter_ends_empty_pictures(tmp_path: Path) -> None:
    make_synthetic_bundle(tmp_path, seed=1, filter_threshold=0.1)
    pictures = _HalfGrey(Bundle.load(tmp_path).classes)
    filtered = evaluate_bundle(tmp_path, pictures, 4, wire="uint8")
    whole = evaluate_bundle(tmp_path, pictures, 4, wire="uint8", is_filtered=False)
    assert (filtered.num_empty, whole.num_empty) == (2, 0)
    assert filtered.bytes_per_frame == whole.bytes_per_frame / 2
    # What was found in grey pictures, found nothing: without it the precision is at least as high.
    assert filtered.boxes.num_objects == whole.boxes.num_objects == 2
    assert (filtered.boxes.map or 0) >= (whole.boxes.map or 0)
    result = filtered.to_json(pictures.classes)
    assert (result["num_empty"], result["num_images"]) == (2, 4)
    everything = evaluate_bundle(tmp_path, pictures, 4, filter_threshold=1.0)
    assert (everything.num_empty, everything.bytes_per_frame) == (4, 0)


def test_a_filter_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no neural filter"):
        evaluate_bundle(folder, _Pictures(Bundle.load(folder).classes), 1, is_filtered=True)


def test_classes_are_matched_by_name(folder: Path) -> None:
    classes = Bundle.load(folder).classes
    same = evaluate_bundle(folder, _Pictures(classes[:1]), 2)
    assert set(same.boxes.per_class) == {0}
    other = evaluate_bundle(folder, _Pictures(classes[1:2]), 2)
    assert set(other.boxes.per_class) == {1}


def test_pictures_of_other_classes_are_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="lacks 'goblet'"):
        evaluate_bundle(folder, _Pictures(("goblet",)), 1)


def test_settings_at_once_are_what_they_are_alone(folder: Path) -> None:
    bundle = Bundle.load(folder)
    settings = settings_of(bundle, ("split", "local", "offload"), ("fp32", "fp16", "uint8", "uint4"))
    assert len(settings) == 4 + 1 + 3
    pictures = _Pictures(bundle.classes)
    together = evaluate_settings(folder, pictures, 3, settings)
    alone = [evaluate_settings(folder, pictures, 3, [setting])[0] for setting in settings]
    assert together == alone
    by_name = dict(zip((setting.name for setting in settings), together, strict=True))
    assert by_name["local 1"].accuracies == by_name["1 fp32"].accuracies
    bytes_of = {name: accuracy.bytes_per_frame for name, accuracy in by_name.items()}
    assert bytes_of["1 fp32"] > bytes_of["1 fp16"] > bytes_of["1 uint8"] > bytes_of["1 uint4"] > 0
    assert bytes_of["offload q90"] > bytes_of["offload q75"] > bytes_of["offload q50"] > 500
    # What a local frame sends are the boxes above the bundle's threshold, 24 bytes each in three tensors.
    assert 0 <= bytes_of["local 1"] < 24 * bundle.stages[-1].outputs[0].shape[1] + 3 * 64


def test_an_outcome_is_what_the_graphs_give(folder: Path) -> None:
    bundle = Bundle.load(folder)
    image = _Pictures(bundle.classes).picture(0, 0).image
    tree = SettingTree(folder, bundle, settings_of(bundle, ("local", "offload")), Computing())
    local, *offloads = tree.outcomes(image)
    again = tree.outcomes(image)
    tree.close()
    packet = Packet(0, 0, 0, image.shape[:2])
    packet.tensors = {"image": image}
    Preprocess(bundle.preprocess).process(packet)
    tensors = dict(packet.tensors) | {"valid_size": np.array(packet.valid_size, np.int64)}
    for index, stage in enumerate(bundle.stages):
        outputs = outputs_of(stage, None)
        engine = open_engine("onnxruntime", "fp32", folder, bundle, index, outputs, 1)
        tensors |= engine.run({tensor.name: tensors[tensor.name] for tensor in stage.inputs}, outputs)
    wanted = golden_detections(bundle.postprocess, tensors, packet.valid_size)
    np.testing.assert_allclose(local.detections.scores, wanted.scores, atol=1e-6)
    np.testing.assert_array_equal(local.detections.boxes, again[0].detections.boxes)
    # A JPEG is not the picture, but noise stays noise.
    assert all((each.detections.scores != local.detections.scores).any() for each in offloads)


def test_a_row_of_the_table_says_what_was_measured(folder: Path) -> None:
    bundle = Bundle.load(folder)
    settings = settings_of(bundle, ("split", "offload"), ("uint8",))
    found = evaluate_settings(folder, _Pictures(bundle.classes), 2, settings)
    row, offload = (
        accuracy.measured(setting, "noise") for accuracy, setting in zip(found[:2], settings[:2], strict=True)
    )
    assert (row.way, row.width, row.wire, row.jpeg_quality, row.num_images) == ("split", 1.0, "uint8", None, 2)
    assert (row.box_map, row.box_map_50) == (found[0].boxes.map, found[0].boxes.map_50)
    assert (offload.way, offload.jpeg_quality) == ("offload", 90)
    assert offload.bytes_per_frame == round(found[1].bytes_per_frame, 1)


def test_a_width_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no width 0.5; choose among 1.0"):
        evaluate_bundle(folder, _Pictures(Bundle.load(folder).classes), 1, width=0.5)
