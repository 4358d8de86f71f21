"""The neural filter has the published size, pools as torch does, and joins a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from splitrail.models.export import export_bundle
from splitrail.models.filter import NeuralFilterNet, pooling_matrix
from splitrail.models.filter_export import add_filter, num_macs
from splitrail.pipeline.errors import BundleError, ConfigError
from splitrail.pipeline.packet import Packet
from splitrail.stages.bundle import Bundle
from splitrail.stages.neural_filter import open_filter

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

OVERRIDES = {
    "num_classes": 5,
    "num_queries": 7,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "d_model": 32,
    "heads": 4,
    "ffn": 48,
    "width": 8,
}


def make_net(num_channels: int, seed: int = 0) -> NeuralFilterNet:
    """Random, with statistics that are not those of a fresh one."""
    torch.manual_seed(seed)
    net = NeuralFilterNet(num_channels)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(4, num_channels, 40, 50) * 3)
    return net


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bundles")
    export_bundle(
        "detr-resnet-18", root / "fixed", overrides=OVERRIDES, size=(96, 160), cuts=("l0", "projection"), opset=13
    )
    export_bundle(
        "detr-resnet-18", root / "dynamic", overrides=OVERRIDES, cuts=("l0", "c5"), short_side=128, max_long_side=213
    )
    export_bundle("detr-resnet-18", root / "uncut", overrides=OVERRIDES, size=(96, 160), cuts=("c5",))
    return {name: root / name for name in ("fixed", "dynamic", "uncut")}


def test_published_numbers() -> None:
    # Parameters with the biases of convolutions, multiply-accumulates of convolutions and the linear layer.
    net = NeuralFilterNet()
    assert sum(parameter.numel() for parameter in net.parameters()) == 88_402
    assert num_macs(net) == 67_530_752
    assert net.training


def test_logits_and_probability_fit_each_other() -> None:
    net = make_net(64).eval()
    x = torch.rand(2, 64, 50, 67)
    logits, objectness = net(x), net.objectness(x)
    assert logits.shape == (2, 2)
    torch.testing.assert_close(objectness, torch.sigmoid(logits[:, 1] - logits[:, 0]))


@pytest.mark.parametrize(("size", "num"), [(200, 64), (272, 64), (48, 64), (64, 64), (14, 8), (1, 8)])
def test_matrices_pool_as_torch_does(size: int, num: int) -> None:
    x = torch.randn(2, 3, size, 37)
    pooled = pooling_matrix(size, num) @ x @ pooling_matrix(37, 8).T
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, (num, 8)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["fixed", "dynamic"])
def test_a_bundle_with_a_filter_decides_as_torch_does(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    net = make_net(8)
    made = add_filter(folders[name], tmp_path / "filtered", net, 0.3, trained="a test")
    assert net.training  # it goes on being trained
    bundle = Bundle.load(tmp_path / "filtered")
    assert bundle == made
    assert bundle.filter is not None
    assert (bundle.filter.after, bundle.filter.threshold, bundle.num_head_stages) == ("stem", 0.3, 2)
    assert bundle.chain(is_filtered=True)[:3] == ("stem", "filter", bundle.stages[1].name)
    assert bundle.filter.graph.num_macs == num_macs(net)
    rng = np.random.default_rng(0)
    for number, frame in enumerate(bundle.golden_frames(tmp_path / "filtered")):
        for l0 in (frame["l0"], np.abs(rng.standard_normal(frame["l0"].shape)).astype(np.float32) * 4):
            with torch.inference_mode():
                expected = float(net.eval().objectness(torch.from_numpy(l0)))
            for threshold, kind in ((expected - 1e-3, "FRAME"), (expected + 1e-3, "EMPTY")):
                stage = open_filter(tmp_path / "filtered", bundle, "onnxruntime", 1, threshold=threshold)
                packet = Packet(number, 0, 0, (9, 9), tensors={"l0": l0, "other": l0})
                stage.process(packet)
                assert packet.kind.name == kind
                assert list(packet.tensors) == (["l0", "other"] if kind == "FRAME" else [])
                stage.close()


def test_the_same_folder_may_be_given_and_a_second_filter_replaces_the_first(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    first = add_filter(folders["fixed"], tmp_path / "b", make_net(8), 0.3)
    second = add_filter(tmp_path / "b", tmp_path / "b", make_net(8, seed=1), 0.4)
    bundle = Bundle.load(tmp_path / "b")
    assert bundle == second != first
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_what_takes_no_filter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not cut behind its stem"):
        add_filter(folders["uncut"], tmp_path / "b", make_net(8), 0.1)
    with pytest.raises(ConfigError, match="gives 8 channels and the filter reads 64"):
        add_filter(folders["fixed"], tmp_path / "b", make_net(64), 0.1)
    for threshold in (1.5, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=r"not in \[0, 1\]"):
            add_filter(folders["fixed"], tmp_path / "b", make_net(8), threshold)
    with pytest.raises(BundleError, match="no bundle at"):
        add_filter(tmp_path / "none", tmp_path / "b", make_net(8), 0.1)
    assert not (tmp_path / "b").exists()
