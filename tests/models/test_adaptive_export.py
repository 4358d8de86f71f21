"""A slimmable detector as a bundle: at every width exactly the fixed network that is sliced to it, by every engine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_support import run
from torch import nn

from splitrail.bench.setting_tree import Computing, SettingTree
from splitrail.models.detector import (
    config_of_arguments,
    config_of_detector,
    for_inference,
    preprocess_of,
    random_detector,
    split_detector,
)
from splitrail.models.engine import TorchEngine, open_torch_engine
from splitrail.models.export import ExportOptions, export_bundle, write_bundle
from splitrail.models.filter import NeuralFilterNet
from splitrail.models.filter_export import add_filter
from splitrail.models.names import model_config
from splitrail.models.slimmable import SlimmableBatchNorm2d, sliced
from splitrail.models.slimmable_bottleneck import slim_bottleneck
from splitrail.models.stored_weights import stored_weights
from splitrail.pipeline.errors import ConfigError, EngineError
from splitrail.stages.agreement import agreement_of
from splitrail.stages.bundle import Bundle
from splitrail.stages.engine_trial import run_trial
from splitrail.stages.engines.registry import EngineKind, register_engine
from splitrail.stages.setting import settings_of

pytest.importorskip("onnx")
torch.set_num_threads(1)
WIDTHS = (0.25, 0.5, 1.0)
SIZE = (64, 96)
DETR = {
    "num_classes": 5,
    "num_queries": 7,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "d_model": 32,
    "heads": 4,
    "ffn": 48,
    "width": 8,
}
RCNN = {"width": 8, "fpn": 16, "box_head": 24, "num_classes": 5}
KINDS: dict[str, dict[str, Any]] = {
    "projection": {"detector": "detr-resnet-18", "bottleneck": 8, "split": "projection", "overrides": DETR},
    "computation": {
        "detector": "detr-resnet-18",
        "bottleneck": 8,
        "split": "projection",
        "overrides": DETR,
        "computation": True,
    },
    "layer1": {"detector": "detr-resnet-18", "bottleneck": 4, "overrides": DETR},
    "rcnn": {"detector": "faster-rcnn-resnet18", "bottleneck": 4, "overrides": RCNN},
}
CHAINS = {
    "projection": ["backbone", "compressor", "decompressor", "transformer"],
    "computation": ["backbone", "compressor", "decompressor", "transformer"],
    "layer1": ["stem", "compressor", "decompressor", "detector_tail"],
    "rcnn": ["stem", "compressor", "decompressor", "detector_tail"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adaptive")


def bundle_of(kind: str, root: Path) -> tuple[Bundle, Path]:
    """Exported when first asked for."""
    folder = root / kind
    if not folder.exists():
        options = dict(KINDS[kind])
        export_bundle(options.pop("detector"), folder, size=SIZE, widths=WIDTHS, include_torch=True, **options)
    return Bundle.load(folder), folder


@cache
def model_of(kind: str) -> nn.Module:
    """The detector that `bundle_of` exports, in torch."""
    options = dict(KINDS[kind])
    detector = options.pop("detector")
    return for_inference(random_detector(model_config(detector, widths=WIDTHS, **options), 0))


_expected: dict[tuple[str, float], list[dict[str, np.ndarray]]] = {}


def expected_of(kind: str, width: float, golden: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What the fixed network sliced to `width`, uncut, says to each golden frame; the same for every engine."""
    if (kind, width) not in _expected:
        model = model_of(kind)
        (whole,) = split_detector(sliced(model, width), (), preprocess_of(config_of_detector(model), SIZE))
        with torch.inference_mode():
            computed = [
                whole.compute(torch.from_numpy(frame["pixels"]), torch.from_numpy(frame["valid_size"]))
                for frame in golden
            ]
        _expected[kind, width] = [
            {name: value.numpy() for name, value in zip(whole.fp32_names, values, strict=True)} for values in computed
        ]
    return _expected[kind, width]


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_width_is_the_fixed_network_sliced_to_it(
    kind: str, engine: str, root: Path, loaded: dict[str, Any]
) -> None:
    bundle, folder = bundle_of(kind, root)
    channels = []
    for width in WIDTHS:
        view = bundle.at_width(width)
        golden = view.golden_frames(folder)
        actual = run(view, folder, golden, engine, loaded)
        for frame, found, expected in zip(golden, actual, expected_of(kind, width, golden), strict=True):
            for name, value in expected.items():
                np.testing.assert_array_equal(frame[name], value)
                if engine == "torch":
                    np.testing.assert_array_equal(found[name], value)
            assert set(found) == set(frame)
        assert agreement_of(view, golden, actual, "fp32").disagreement == ""
        channels.append(golden[0]["bottleneck"].shape[1])
    assert channels == [max(1, round(KINDS[kind]["bottleneck"] * width)) for width in WIDTHS]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_does_not_follow_the_width_is_there_once(kind: str, root: Path) -> None:
    bundle, folder = bundle_of(kind, root)
    assert bundle.widths == WIDTHS
    assert [stage.name for stage in bundle.stages] == CHAINS[kind]
    assert bundle.num_head_stages == 2
    assert bundle.detector.endswith("-slimmable")
    for each in bundle.narrower:
        assert [stage.name for stage in each.stages] == ["compressor", "decompressor"]
    graphs = [stage.graph for width in WIDTHS for stage in bundle.at_width(width).stages]
    assert len(set(graphs)) == 4 + 2 * 2
    assert sorted(path.name for path in folder.iterdir()) == sorted({*bundle.checksums(), "bundle.json"})
    heads = [bundle.at_width(width).stages[1] for width in WIDTHS]
    assert [head.max_wire_bytes for head in heads] == sorted({head.max_wire_bytes for head in heads})
    assert [head.num_macs for head in heads] == sorted({head.num_macs for head in heads})
    assert heads[0].num_parameters < heads[-1].num_parameters
    keys = set(np.load(folder / bundle.golden).files)
    assert "0/bottleneck@0.25" in keys
    assert not any(key.startswith(("0/pixels@", "0/features@", "0/l0@")) for key in keys)


def test_widths_of_torch_share_their_weights(root: Path) -> None:
    bundle, folder = bundle_of("projection", root)
    views = [bundle.at_width(width) for width in WIDTHS]
    engines = [open_torch_engine(folder, view, 1, 1) for view in views]
    stored = {id(stored_weights(folder, view, 1, torch.device("cpu"))) for view in views}
    assert len(stored) == 1
    places = set()
    for engine in engines:
        assert isinstance(engine, TorchEngine)
        encoder = engine._segment.detr.bottleneck.encoder
        assert not any(isinstance(module, SlimmableBatchNorm2d) for module in encoder.modules())
        places.add((encoder[0].weight.data_ptr(), encoder[-1].weight.data_ptr()))
    assert len(places) == 1
    frame = bundle.golden_frames(folder)[0]
    # In any order, one after the other.
    for number in (0, 2, 1, 0, 1, 2):
        found = engines[number].run(frame, ("bottleneck",))["bottleneck"]
        np.testing.assert_array_equal(found, views[number].golden_frames(folder)[0]["bottleneck"])
    for engine in engines:
        engine.close()
    wrong = bundle.model_copy(update={"width": 0.75, "narrower": ()})
    with pytest.raises(EngineError, match=r"no width 0\.75"):
        open_torch_engine(folder, wrong, 1, 1)


def test_a_slimmed_detector_is_exported_as_what_its_configuration_says(root: Path, tmp_path: Path) -> None:
    bundle, _ = bundle_of("projection", root)
    assert bundle.torch_model is not None
    config = config_of_arguments(bundle.torch_model.arguments)
    assert (config.widths, config.configurable) == (WIDTHS, "bandwidth")
    fixed = random_detector(model_config("detr-resnet-18", DETR, bottleneck=8, split="projection"), 3)
    slim_bottleneck(fixed, WIDTHS)
    made = write_bundle(fixed, "mine", tmp_path / "b", ExportOptions(size=SIZE, num_golden=1, include_torch=True))
    assert made.widths == WIDTHS
    assert made.torch_model is not None
    assert config_of_arguments(made.torch_model.arguments) == config
    trial = run_trial(tmp_path / "b", "onnxruntime", "fp32", threads=1, timing_s=0, width=0.25)
    assert (trial.failure, trial.disagreement) == ("", "")


def test_sizes_may_vary(tmp_path: Path, loaded: dict[str, Any]) -> None:
    options = dict(KINDS["projection"])
    bundle = export_bundle(
        options.pop("detector"),
        tmp_path / "b",
        size=None,
        widths=(0.5, 1.0),
        short_side=64,
        max_long_side=96,
        **options,
    )
    for width in bundle.widths:
        view = bundle.at_width(width)
        golden = view.golden_frames(tmp_path / "b")
        assert golden[0]["bottleneck"].shape != golden[1]["bottleneck"].shape
        actual = run(view, tmp_path / "b", golden, "onnxruntime", loaded)
        assert agreement_of(view, golden, actual, "fp32").disagreement == ""


def test_a_filter_is_added_to_every_width(root: Path, tmp_path: Path) -> None:
    bundle, folder = bundle_of("layer1", root)
    torch.manual_seed(0)
    made = add_filter(folder, tmp_path / "b", NeuralFilterNet(8), 0.1)
    assert made.num_head_stages == bundle.num_head_stages == 2
    for width in WIDTHS:
        old, new = (
            each.at_width(width).golden_frames(path) for each, path in ((bundle, folder), (made, tmp_path / "b"))
        )
        assert set(new[0]) == {*old[0], "objectness"}
        np.testing.assert_array_equal(old[0]["bottleneck"], new[0]["bottleneck"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bottleneck": 0}, "only a detector with a bottleneck has widths"),
        ({"widths": (0.5, 0.25)}, "the largest being 1"),
        ({"widths": (0.5, 0.5, 1)}, "different fractions"),
        ({"widths": (), "computation": True}, "give --widths too"),
        ({"cuts": ("projection",)}, "cut at its bottleneck, and the cuts are projection"),
        ({"cuts": ()}, "the cuts are none"),
    ],
)
def test_what_cannot_be_exported_is_told(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"bottleneck": 8, "split": "projection", "widths": WIDTHS, "size": SIZE, "overrides": DETR} | options
    with pytest.raises(ConfigError, match=words):
        export_bundle("detr-resnet-18", tmp_path / "b", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "engine", ["onnxruntime", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "torch"))]
)
def test_every_setting_at_once_is_what_it_is_alone(engine: str, root: Path) -> None:
    register_engine(EngineKind("torch", "splitrail.models.engine:open_torch_engine", "torch", "torch", ("fp32",)))
    bundle, folder = bundle_of("projection", root)
    settings = settings_of(bundle, ("split", "local", "offload"), ("fp32", "uint8", "uint4"))
    assert len(settings) == 3 * 3 + 3 + 3
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    tree = SettingTree(folder, bundle, settings, Computing(engine))
    together = tree.outcomes(image)
    tree.close()
    by_name = {}
    for setting, outcome in zip(settings, together, strict=True):
        alone = SettingTree(folder, bundle, [setting], Computing(engine))
        (expected,) = alone.outcomes(image)
        alone.close()
        np.testing.assert_array_equal(outcome.detections.scores, expected.detections.scores)
        np.testing.assert_array_equal(outcome.detections.boxes, expected.detections.boxes)
        assert outcome.num_bytes == expected.num_bytes
        by_name[setting.name] = outcome
    for width in ("0.25", "0.5", "1"):
        local, sent = by_name[f"local {width}"], by_name[f"{width} fp32"]
        np.testing.assert_array_equal(local.detections.scores, sent.detections.scores)
    assert (by_name["local 1"].detections.scores != by_name["local 0.25"].detections.scores).any()
    sizes = [by_name[f"{width} uint8"].num_bytes for width in ("0.25", "0.5", "1")]
    assert sizes == sorted(sizes)


def test_a_bundle_may_have_some_of_the_widths(tmp_path):
    config = model_config("detr-resnet-18", DETR, bottleneck=8, split="projection", widths=WIDTHS)
    model = random_detector(config, seed=0)
    bundle = write_bundle(model, "small", tmp_path / "some", ExportOptions(SIZE, widths=(1.0, 0.25), num_golden=1))
    assert bundle.widths == (0.25, 1.0)
    assert not list((tmp_path / "some").glob("*0.5*"))
    for wrong in ((0.3, 1.0), (0.25,)):
        with pytest.raises(ConfigError, match=r"choose among 0\.25, 0\.5, 1\.0, 1 among them"):
            write_bundle(model, "small", tmp_path / "wrong", ExportOptions(SIZE, widths=wrong))
    assert not (tmp_path / "wrong").exists()
