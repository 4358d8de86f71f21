"""The network stage: graphs of a bundle one after the other, over every wire type."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from splitrail.pipeline.errors import BundleError, MessageError
from splitrail.pipeline.packet import Array, Packet, TensorSpec
from splitrail.pipeline.stage import BindableStage
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import Decode, Encode
from splitrail.stages.engines.registry import open_engine
from splitrail.stages.network import Network, outputs_of
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    make_synthetic_bundle(root / "fixed", cuts=2)
    make_synthetic_bundle(root / "dynamic", cuts=1, size=None)
    return root


def network(folder: Path, index: int, wire: str | None) -> Network:
    bundle = Bundle.load(folder)
    stage = bundle.stages[index]
    engine = open_engine("onnxruntime", "fp32", folder, bundle, index, outputs_of(stage, wire), 1)
    return Network(engine, stage, wire)


def golden_packet(frame: Mapping[str, Array], *names: str) -> Packet:
    height, width = frame["valid_size"]
    tensors = {name: frame[name] for name in names}
    return Packet(3, 0, 0, (48, 64), valid_size=(int(height), int(width)), tensors=tensors)


class EchoEngine:
    """Gives its input back as its output, or a copy of it."""

    name, precision = "echo", "fp32"

    def __init__(self, copy: bool) -> None:
        self._copy = copy
        self.closed = False

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        array = inputs["features"]
        return dict.fromkeys(outputs, array.copy() if self._copy else array[:, 1:])

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("wire", "tolerance"), [(None, 1e-5), ("fp32", 1e-5), ("fp16", 2e-2), ("uint8", 0.2)])
def test_the_chain_over_a_wire_ends_near_the_golden_outputs(folder: Path, wire: str | None, tolerance: float) -> None:
    root = folder / "fixed"
    bundle = Bundle.load(root)
    stages = [network(root, 0, wire), network(root, 1, wire), network(root, 2, None)]
    for frame in bundle.golden_frames(root):
        packet = golden_packet(frame, "pixels")
        for stage, graph in zip(stages, bundle.stages, strict=True):
            stage.process(packet)
            assert tuple(packet.tensors) == outputs_of(graph, wire)
            if graph.wire_tensors and wire:
                Decode(graph.wire_tensors, wire).process(packet)
        assert list(packet.tensors) == ["pred_logits", "pred_boxes"]
        for name, array in packet.tensors.items():
            np.testing.assert_allclose(array, frame[name], atol=tolerance)
    for stage in stages:
        stage.close()


@pytest.mark.parametrize("wire", ["fp32", "fp16", "uint8"])
def test_the_graph_and_the_codec_put_the_same_bytes_on_the_wire(folder: Path, wire: str) -> None:
    root = folder / "fixed"
    for frame in Bundle.load(root).golden_frames(root):
        by_graph, by_codec = golden_packet(frame, "pixels"), golden_packet(frame, "pixels")
        network(root, 0, wire).process(by_graph)
        network(root, 0, None).process(by_codec)
        Encode(["features"], wire).process(by_codec)
        assert list(by_graph.tensors) == list(by_codec.tensors)
        for name, array in by_graph.tensors.items():
            assert array.tobytes() == by_codec.tensors[name].tobytes()


@pytest.mark.parametrize("wire", ["fp32", "fp16", "uint8"])
def test_specs_are_what_comes_out_and_targets_are_written(folder: Path, wire: str) -> None:
    root = folder / "fixed"
    stage = network(root, 0, wire)
    assert isinstance(stage, BindableStage)
    specs = stage.output_specs()
    assert specs is not None
    frame = Bundle.load(root).golden_frames(root)[0]
    packet, expected = golden_packet(frame, "pixels"), golden_packet(frame, "pixels")
    packet.targets = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in specs}
    packet.targets |= {"of another stage": np.zeros(3, np.uint8)}
    stage.process(packet)
    stage.process(expected)
    assert specs == tuple(TensorSpec(name, a.dtype.name, a.shape) for name, a in packet.tensors.items())
    for name, array in packet.tensors.items():
        assert array is packet.targets[name]
        assert np.array_equal(array, expected.tensors[name])


def test_specs_of_the_last_graph_are_static_even_for_dynamic_size(folder: Path) -> None:
    assert network(folder / "dynamic", 0, "uint8").output_specs() is None
    assert network(folder / "dynamic", 1, None).output_specs() == (
        TensorSpec("pred_logits", "float32", (1, 5, 4)),
        TensorSpec("pred_boxes", "float32", (1, 5, 4)),
    )


def test_the_valid_size_of_the_packet_reaches_the_graph(folder: Path) -> None:
    stage = network(folder / "fixed", 0, None)
    frame = Bundle.load(folder / "fixed").golden_frames(folder / "fixed")[0]
    whole, part = golden_packet(frame, "pixels"), golden_packet(frame, "pixels")
    part.valid_size = (32, 96)
    stage.process(whole)
    stage.process(part)
    assert np.array_equal(whole.tensors["features"][:, :, :3], part.tensors["features"][:, :, :3])
    assert not np.array_equal(whole.tensors["features"][:, :, 4:], part.tensors["features"][:, :, 4:])


@pytest.mark.parametrize(("copy", "released"), [(True, 1), (False, 0)])
def test_the_receive_buffer_goes_back_once_nothing_of_it_is_left(folder: Path, copy: bool, released: int) -> None:
    bundle = Bundle.load(folder / "fixed")
    engine = EchoEngine(copy)
    stage = Network(engine, bundle.stages[1], None)
    releases: list[int] = []
    packet = golden_packet(bundle.golden_frames(folder / "fixed")[0], "features")
    packet.held = lambda: releases.append(1)
    stage.process(packet)
    assert len(releases) == released
    stage.close()
    assert engine.closed


def test_what_does_not_fit_the_graph_is_named(folder: Path) -> None:
    stage = network(folder / "fixed", 1, None)
    frame = Bundle.load(folder / "fixed").golden_frames(folder / "fixed")[0]
    with pytest.raises(MessageError, match=r"frame 3: encoder reads tensor \[features\] and the packet has \[pixels\]"):
        stage.process(golden_packet(frame, "pixels"))
    packet = golden_packet(frame, "features")
    packet.tensors["features"] = packet.tensors["features"].astype(np.float16)
    with pytest.raises(MessageError, match=r"\[features\] as float32 and it came as float16"):
        stage.process(packet)
    packet.tensors["features"] = frame["features"][:, :, :4]
    with pytest.raises(MessageError, match=r"of shape \[1, 16, 8, 12\] and it came as \[1, 16, 4, 12\]"):
        stage.process(packet)


def test_a_wire_type_that_the_graph_does_not_offer_is_refused(folder: Path) -> None:
    stage = Bundle.load(folder / "fixed").stages[0]
    poor = stage.model_copy(update={"outputs": stage.outputs[:1]})
    assert outputs_of(poor, "fp32") == ("features",)
    with pytest.raises(BundleError, match=r"backbone.onnx\] has no output \[features_fp16\]"):
        outputs_of(poor, "fp16")
