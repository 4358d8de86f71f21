"""Settings that take turns from frame to frame with other engines and detectors than `test_adapt.py` has."""

from __future__ import annotations

from contextlib import ExitStack, closing
from itertools import product

import numpy as np
import pytest
from adaptive_bundle import make_adaptive_bundle

from splitrail.launch import workshop  # noqa: F401  registers the engines
from splitrail.launch.adaptation import Adaptation
from splitrail.launch.assemble import Run
from splitrail.launch.config import RunConfig
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Kind, Packet
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import Decode, Encode
from splitrail.stages.detections import Detections
from splitrail.stages.engines.registry import open_engine
from splitrail.stages.network import Network, form_of, outputs_of
from splitrail.stages.postprocess import open_postprocess

pytestmark = pytest.mark.timeout(240)

WIDTHS, WIRES = (0.5, 1.0), ("fp16", "uint8")
DETR = {
    "num_classes": 5,
    "num_queries": 7,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "d_model": 32,
    "heads": 4,
    "ffn": 48,
    "width": 8,
}
RCNN = {"width": 8, "fpn": 16, "box_head": 24, "num_classes": 5}
BUNDLES = {
    "detr": ("detr-resnet-18", {"bottleneck": 8, "split": "projection", "size": (64, 96), "overrides": DETR}),
    "rcnn": ("faster-rcnn-resnet18", {"bottleneck": 4, "size": (64, 96), "overrides": RCNN}),
    "efficientdet": (
        "efficientdet-d0",
        {"bottleneck": 10, "size": (128, 128), "computation": True, "overrides": {"num_classes": 5}},
    ),
}


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        pytest.param("detr", "torch", marks=pytest.mark.slow),
        pytest.param("rcnn", "torch", marks=pytest.mark.slow),
        pytest.param("rcnn", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("efficientdet", "onnxruntime", marks=pytest.mark.slow),
    ],
)
def test_each_frame_is_as_the_bundle_at_its_width_makes_it_whatever_the_one_before_was(kind, engine, tmp_path):
    pytest.importorskip("torch").set_num_threads(1)
    if kind == "efficientdet":
        pytest.importorskip("effdet")
    from splitrail.models.export import export_bundle

    detector, options = BUNDLES[kind]
    export_bundle(detector, tmp_path, widths=WIDTHS, include_torch=engine == "torch", **options)
    bundle = Bundle.load(tmp_path)
    adapt = {"policy": "fixed:1,fp16", "wires": list(WIRES)}
    raw = {"source": {"uri": "x"}, "out": "o", "bundle": str(tmp_path), "placement": "split", "adapt": adapt}
    config = RunConfig.check(raw, "test")
    run = Run.plan(config, config.resolve_placement(), bundle)
    assert [setting.name for setting in run.settings] == ["1 fp16", "1 uint8", "0.5 fp16", "0.5 uint8"]
    frames = bundle.golden_frames(tmp_path)
    wanted = [[alone(tmp_path, bundle, frame, setting, engine) for setting in run.settings] for frame in frames]
    # The widths say different things, else it would not matter which one a frame goes through.
    assert not np.array_equal(wanted[0][1].scores, wanted[0][3].scores)
    with ExitStack() as stack:
        switches = []
        for rank, lanes in ((0, [run.cut]), (1, [run.cut + 1, run.cut + 2])):
            part = Adaptation(
                run,
                rank,
                config.adapt,
                tmp_path,
                NullObserver(),
                open_graph=lambda view, number, outputs: opened(engine, tmp_path, view, number, outputs),
                open_filter=lambda: None,
                open_postprocess=lambda: open_postprocess(bundle.postprocess, 0.0),
                is_live=False,
                knows_age=True,
            )
            switches += [stack.enter_context(closing(part.switch(lane))) for lane in lanes]
        # Each setting after each other one, and after itself.
        order = [index for pair in product(range(len(run.settings)), repeat=2) for index in pair]
        for turn, index in enumerate(order):
            frame = turn % len(frames)
            packet = packet_of(frames[frame], index)
            for switch in switches:
                switch.process(packet)
            assert packet.kind is Kind.FRAME, packet.reason
            found = Detections.from_tensors(packet.tensors)
            for name in ("boxes", "scores", "labels"):
                expected = getattr(wanted[frame][index], name)
                np.testing.assert_array_equal(getattr(found, name), expected, run.settings[index].name)


def alone(folder, bundle, frame, setting, engine):
    """The same by the ordinary stages at this width, opened for this frame."""
    view = bundle.at_width(setting.width)
    packet = packet_of(frame, 0)
    with ExitStack() as stack:
        for number, stage in enumerate(view.stages):
            crosses = number + 1 == view.num_head_stages
            form = form_of(stage, setting.wire) if crosses else None
            outputs = outputs_of(stage, form)
            loaded = opened(engine, folder, view, number, outputs)
            stack.enter_context(closing(loaded))
            Network(loaded, stage, form).process(packet)
            if crosses:
                if form != setting.wire:
                    Encode(stage.wire_tensors, setting.wire, source=form).process(packet)
                Decode(stage.wire_tensors, setting.wire).process(packet)
        open_postprocess(bundle.postprocess, 0.0).process(packet)
    found = Detections.from_tensors(packet.tensors)
    assert len(found)
    return found


def opened(engine, folder, view, number, outputs):
    return open_engine(engine, "fp32", folder, view, number, outputs, 1)


def packet_of(frame, setting):
    height, width = (int(side) for side in frame["valid_size"])
    size = (height, width)
    return Packet(0, 0, 0, size, size, tensors={"pixels": frame["pixels"]}, setting=setting)


@pytest.mark.mpi
def test_the_head_of_an_adaptive_run_may_get_its_images_as_jpeg(splitrail_run, tmp_path):
    make_adaptive_bundle(tmp_path / "bundle")
    outcome = splitrail_run(
        "--no-video", "--max-frames", "8", "--adapt-policy", "fixed:0.5,uint8",
        bundle=tmp_path / "bundle", placement="transformer", image_wire="jpeg",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.summary["counts"]["done"] == 8
    (edge, *_) = sorted(outcome.summary["edges"], key=lambda edge: edge["name"])
    assert edge["name"] == "0->1 jpeg"
