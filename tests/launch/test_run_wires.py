"""`splitrail run` over every family of wire types: what arrives is what was encoded, whatever its length."""

import numpy as np
import pytest
from run_support import NUM_FRAMES, NUM_TIMED

from splitrail.pipeline.message import HEADER_BYTES
from splitrail.pipeline.packet import Packet
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import decode, encode
from splitrail.stages.engines.registry import open_engine
from splitrail.stages.network import Network, outputs_of
from splitrail.stages.postprocess import open_postprocess
from splitrail.stages.preprocess import Preprocess
from splitrail.stages.source import SourceOptions, open_source

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(180)]
WIRES = ("uint8", "uint8-channel", "uint8+zstd", "uint6", "uint4-channel+zstd")


@pytest.fixture(scope="module")
def locally(bundle, clip):
    """Wire -> detections and payload bytes of every frame, computed here without any rank."""
    known = Bundle.load(bundle)
    graphs = []
    for index, graph in enumerate(known.stages):
        engine = open_engine("onnxruntime", "fp32", bundle, known, index, outputs_of(graph, None), 1)
        graphs.append(Network(engine, graph, None))
    preprocess, postprocess = Preprocess(known.preprocess), open_postprocess(known.postprocess, 0.2)
    found = {wire: ([], []) for wire in WIRES}
    source = open_source(str(clip), SourceOptions())
    while (packet := source.receive()) is not None:
        preprocess.process(packet)
        graphs[0].process(packet)
        features = packet.tensors["features"].copy()
        for wire, (detections, sizes) in found.items():
            parts = encode(features, wire)
            sizes.append(next(iter(parts.values())).nbytes)
            end = Packet(packet.frame, 0, 0, packet.source_size, packet.valid_size)
            end.tensors = {"features": decode(parts, wire)}
            graphs[1].process(end)
            postprocess.process(end)
            detections.append({name: array.copy() for name, array in end.tensors.items()})
    source.close()
    return found


@pytest.mark.parametrize("wire", WIRES)
def test_detections_are_those_of_encoding_and_decoding_here(splitrail_run, locally, wire):
    outcome = splitrail_run("--no-video", "--threads", "1", placement="split", wire=wire)
    assert outcome.code == 0, outcome.err
    expected, sizes = locally[wire]
    assert len(outcome.frames) == len(expected) == NUM_FRAMES
    for frame, there in zip(outcome.frames, expected, strict=True):
        assert len(frame["detections"]) == len(there["scores"])
        for found, box, score in zip(frame["detections"], there["boxes"], there["scores"], strict=True):
            np.testing.assert_allclose(found["box"], box, atol=0.0051)  # it is written with two digits
            assert found["score"] == pytest.approx(float(score), abs=6e-6)
    edge = next(edge for edge in outcome.summary["edges"] if "features" in edge["name"])
    # Parameters and the gaps between tensors are the rest: less than a packed tensor saves.
    assert sum(sizes) / NUM_FRAMES <= edge["bytes_per_frame"] - HEADER_BYTES <= sum(sizes) / NUM_FRAMES + 280
    if wire.endswith("zstd"):
        assert len(set(sizes)) > 1
    encoded = [stage for rank in outcome.summary["ranks"] for stage in rank["stages"] if stage["name"] == "encode"]
    # The synthetic graph makes uint8 itself; everything else is a stage, whose time is in the journal.
    assert [stage["num"] for stage in encoded] == ([] if wire == "uint8" else [NUM_TIMED])
