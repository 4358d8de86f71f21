import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from splitrail.models import export as export_module
from splitrail.models.cut import split
from splitrail.models.detr import DetrConfig
from splitrail.models.export import ExportOptions, export_bundle, write_bundle
from splitrail.models.names import config_of
from splitrail.models.onnx_graph import ExportError, check_graph
from splitrail.models.random_init import random_detr
from splitrail.models.weights import save_weights
from splitrail.pipeline.errors import BundleError, ConfigError, UsageError
from splitrail.stages.bundle import WIRE_SUFFIXES, Bundle
from splitrail.stages.codec import encode

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OVERRIDES = {
    "num_classes": 5,
    "num_queries": 7,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "d_model": 32,
    "heads": 4,
    "ffn": 48,
    "width": 8,
}
FIXED = {"size": (96, 161), "cuts": ("projection", "memory"), "opset": 13}
DYNAMIC = {"size": None, "cuts": ("c5",), "opset": 17, "short_side": 128, "max_long_side": 213}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bundles")
    for name, options in (("fixed", FIXED), ("dynamic", DYNAMIC)):
        export_bundle("detr-resnet-18", root / name, overrides=OVERRIDES, num_golden=3, **options)
    return {name: root / name for name in ("fixed", "dynamic")}


@pytest.fixture(params=["fixed", "dynamic"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def sessions(folder: Path, bundle: Bundle) -> list[onnxruntime.InferenceSession]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return [onnxruntime.InferenceSession(str(folder / stage.graph), options) for stage in bundle.stages]


def relative_l2(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_the_manifest_describes_the_graphs(folder: Path) -> None:
    bundle = Bundle.load(folder)
    for stage, session in zip(bundle.stages, sessions(folder, bundle), strict=True):
        for described, found in ((stage.inputs, session.get_inputs()), (stage.outputs, session.get_outputs())):
            assert [tensor.name for tensor in described] == [tensor.name for tensor in found]
            assert [tensor.shape for tensor in described] == [tuple(tensor.shape) for tensor in found]
            types = {"float32": "float", "float16": "float16", "uint8": "uint8", "int64": "int64"}
            assert [f"tensor({types[tensor.dtype]})" for tensor in described] == [tensor.type for tensor in found]
        assert {tensor.name for tensor in stage.inputs} >= {"valid_size"}
        assert stage.num_parameters > 0
        assert stage.num_macs > 0


def test_names_and_shapes(folders: dict[str, Path]) -> None:
    fixed, dynamic = Bundle.load(folders["fixed"]), Bundle.load(folders["dynamic"])
    assert [stage.name for stage in fixed.stages] == ["backbone", "encoder", "decoder"]
    assert [stage.wire_tensors for stage in fixed.stages] == [("features",), ("memory",), ()]
    assert fixed.stages[0].inputs[0].shape == (1, 96, 161, 3)
    assert fixed.stages[0].outputs[0].shape == (1, 32, 3, 6)
    assert fixed.stages[0].max_wire_bytes == 4 * 32 * 3 * 6
    assert fixed.stages[-1].outputs[0].shape == (1, 7, 6)
    assert fixed.stages[-1].max_wire_bytes == 0
    assert fixed.preprocess.size == (96, 161)
    assert [stage.name for stage in dynamic.stages] == ["backbone", "transformer"]
    assert dynamic.stages[0].inputs[0].shape == (1, "height", "width", 3)
    assert dynamic.stages[1].inputs[0].shape == (1, 64, "feature_height", "feature_width")
    assert dynamic.preprocess.size is None
    assert (dynamic.preprocess.short_side, dynamic.preprocess.max_long_side) == (128, 213)
    assert dynamic.classes == tuple(f"class {label}" for label in range(5))
    assert dynamic.trained == ""


def test_the_asked_opset_came_out_and_fixed_graphs_have_no_shapes_to_compute(folders: dict[str, Path]) -> None:
    for name, opset in (("fixed", 13), ("dynamic", 17)):
        bundle = Bundle.load(folders[name])
        assert bundle.opset == opset
        for stage in bundle.stages:
            model = onnx.load(folders[name] / stage.graph)
            assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", opset)}
            kinds = {node.op_type for node in model.graph.node}
            assert "CumSum" not in kinds
            assert kinds.isdisjoint({"Shape", "Range", "LayerNormalization"}) == (name == "fixed")


def test_golden_frames_are_what_the_graphs_compute(folder: Path) -> None:
    bundle = Bundle.load(folder)
    golden = bundle.golden_frames(folder)
    assert len(golden) == bundle.num_golden_frames == 3
    for frame in golden:
        tensors = {"pixels": frame["pixels"], "valid_size": frame["valid_size"]}
        for stage, session in zip(bundle.stages, sessions(folder, bundle), strict=True):
            names = [*stage.wire_tensors] or [tensor.name for tensor in stage.outputs]
            inputs = {tensor.name: tensors[tensor.name] for tensor in stage.inputs}
            for name, value in zip(names, session.run(names, inputs), strict=True):
                assert relative_l2(value, frame[name]) <= 1e-4
                tensors[name] = value


def test_golden_frames_differ_and_one_is_padded(folders: dict[str, Path]) -> None:
    fixed = Bundle.load(folders["fixed"]).golden_frames(folders["fixed"])
    assert [tuple(frame["valid_size"]) for frame in fixed] == [(96, 161), (96, 120), (96, 161)]
    assert not fixed[1]["pixels"][:, :, 120:].any()
    for name in ("pred_logits", "pred_boxes"):
        assert float(np.abs(fixed[0][name] - fixed[2][name]).max()) > 0.01
    dynamic = Bundle.load(folders["dynamic"]).golden_frames(folders["dynamic"])
    assert len({frame["pixels"].shape for frame in dynamic}) == 2
    assert all(tuple(frame["valid_size"]) == frame["pixels"].shape[1:3] for frame in dynamic)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_wire_forms_in_the_graph_have_the_codecs_bytes(folder: Path, engine: str) -> None:
    openvino = pytest.importorskip("openvino") if engine == "openvino" else None
    bundle = Bundle.load(folder)
    stage = bundle.stages[0]
    for frame in bundle.golden_frames(folder):
        inputs = {tensor.name: frame[tensor.name] for tensor in stage.inputs}
        if openvino is not None:
            settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
            compiled = openvino.Core().compile_model(str(folder / stage.graph), "CPU", settings)
            values = compiled(inputs)
            results = {tensor.name: np.array(values[tensor.name]) for tensor in stage.outputs}
        else:
            names = [tensor.name for tensor in stage.outputs]
            results = dict(zip(names, sessions(folder, bundle)[0].run(names, inputs), strict=True))
        (name,) = stage.wire_tensors
        for wire in WIRE_SUFFIXES:
            for suffix, expected in encode(results[name], wire).items():
                assert results[name + suffix].tobytes() == expected.tobytes(), suffix


@pytest.mark.parametrize("size", [(96, 128), (128, 213), (101, 77)])
def test_dynamic_graphs_take_other_sizes(folders: dict[str, Path], size: tuple[int, int]) -> None:
    folder = folders["dynamic"]
    bundle = Bundle.load(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    valid_size = np.array(size, np.int64)
    head, tail = sessions(folder, bundle)
    (c5,) = head.run(["c5"], {"pixels": pixels, "valid_size": valid_size})
    logits, boxes = tail.run(["pred_logits", "pred_boxes"], {"c5": c5, "valid_size": valid_size})
    (segment,) = split(random_detr(config_of("detr-resnet-18", OVERRIDES), 0), (), None)
    with torch.inference_mode():
        expected = segment(torch.from_numpy(pixels), torch.from_numpy(valid_size))
    np.testing.assert_allclose(logits, expected[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(boxes, expected[1], rtol=0, atol=1e-4)


def small_export(out: Path, **changes: object) -> Bundle:
    options: dict[str, object] = {"size": (64, 64), "overrides": OVERRIDES, "num_golden": 1, **changes}
    return export_bundle("detr-resnet-18", out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `small_export` makes."""
    folder = tmp_path_factory.mktemp("exported") / "b"
    small_export(folder)
    return folder


def test_the_same_export_twice_is_the_same_bundle(exported: Path, tmp_path: Path) -> None:
    checksum = Bundle.load(exported).checksum
    assert small_export(tmp_path / "a").checksum == checksum
    assert small_export(tmp_path / "a", seed=1).checksum != checksum


def test_everybody_may_read_it(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        small_export(tmp_path / "b", cuts=())
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "b").iterdir()} == {0o644}


def test_a_failure_leaves_the_old_bundle_and_nothing_else(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path / "b")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_graph", fail)
    with pytest.raises(BundleError, match="No space left"):
        small_export(tmp_path / "b", seed=1)
    assert Bundle.load(tmp_path / "b") == Bundle.load(exported)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_is_replaced_as_a_whole(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["fixed"], tmp_path / "b")
    assert (tmp_path / "b" / "encoder.onnx").exists()
    small_export(tmp_path / "b", cuts=())
    assert {file.name for file in (tmp_path / "b").iterdir()} == {"bundle.json", "golden.npz", "detector.onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_link_to_a_bundle_stays_a_link(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "a")
    (tmp_path / "link").symlink_to("a")
    new = small_export(tmp_path / "link", seed=1, cuts=())
    assert (tmp_path / "link").is_symlink()
    assert Bundle.load(tmp_path / "a") == new


def test_anything_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    (tmp_path / "file").write_text("text")
    for name in ("photos", "file"):
        with pytest.raises(BundleError, match="no bundle"):
            small_export(tmp_path / name)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "meow"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"opset": 12}, UsageError, "opset 12"),
        ({"size": (16, 64)}, ConfigError, "16x64"),
        ({"cuts": ("backbone",)}, ConfigError, "'backbone'"),
        ({"classes": ("a", "b")}, ConfigError, "2 class names"),
        ({"num_golden": 0}, ConfigError, "golden"),
        ({"score_threshold": 50}, ConfigError, "threshold"),
        ({"weights": "absent.safetensors"}, UsageError, "absent"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        small_export(tmp_path / "b", **changes)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_graph_that_is_not_the_model_is_caught(folders: dict[str, Path]) -> None:
    """The same graphs beside another detector's numbers."""
    folder = folders["fixed"]
    bundle = Bundle.load(folder)
    segments = split(random_detr(config_of("detr-resnet-18", OVERRIDES), 0), FIXED["cuts"], FIXED["size"])
    (frame, *_) = bundle.golden_frames(folder)
    for stage, segment in zip(bundle.stages, segments, strict=True):
        assert check_graph(folder / stage.graph, segment, frame)
        name = segment.fp32_names[0]
        wrong = frame | {name: frame[name] * np.float32(1.01)}
        with pytest.raises(ExportError, match=name):
            check_graph(folder / stage.graph, segment, wrong)


def test_weights_classes_and_progress(tmp_path: Path) -> None:
    detr = random_detr(config_of("detr-resnet-18", OVERRIDES), 3)
    (tmp_path / "weights").mkdir()
    save_weights(detr, tmp_path / "weights" / "model.safetensors")
    names = ["N/A", "cup", "ball", "cone", "book"]
    (tmp_path / "weights" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    steps = []
    bundle = small_export(
        tmp_path / "b",
        weights=str(tmp_path / "weights"),
        score_threshold=0.7,
        nms_iou=0.6,
        progress=lambda done, total, text: steps.append((done, total)),
    )
    assert bundle.trained == "weights"
    assert bundle.classes == tuple(names)
    assert (bundle.postprocess.score_threshold, bundle.postprocess.nms_iou) == (0.7, 0.6)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[0][0] == 0
    assert steps[-1] == (5, 5)
    (frame,) = bundle.golden_frames(tmp_path / "b")
    (segment,) = split(detr, (), (64, 64))
    with torch.inference_mode():
        logits, _ = segment(torch.from_numpy(frame["pixels"]), torch.from_numpy(frame["valid_size"]))
    assert np.array_equal(frame["pred_logits"], logits.numpy())


def test_a_detector_in_training_is_exported_and_left_alone(tmp_path: Path) -> None:
    from splitrail.models.detr import Detr

    config = DetrConfig(**{**vars(config_of("detr-resnet-18", OVERRIDES)), "norm": "batch"})
    detr = Detr(config).train()
    detr(torch.randn(2, 3, 64, 64))
    bundle = write_bundle(
        detr, "scenes", tmp_path / "b", ExportOptions(size=(64, 64), include_torch=True), trained="me"
    )
    assert detr.training
    assert detr.config.norm == "batch"
    assert (bundle.detector, bundle.trained) == ("scenes", "me")
    assert bundle.torch_model is not None
    assert bundle.torch_model.arguments["norm"] == "frozen"
