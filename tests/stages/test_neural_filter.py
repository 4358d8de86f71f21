"""The neural filter: what it lets through, what it ends, and bundles that have one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from splitrail.pipeline.errors import BundleError, ConfigError, FrameError, MessageError
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Array, Kind, Packet
from splitrail.pipeline.stage import Chain
from splitrail.stages.bundle import MANIFEST, Bundle
from splitrail.stages.neural_filter import OBJECTNESS, FilterStage, open_filter
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    make_synthetic_bundle(path, filter_threshold=0.5)
    return path


class SaysEngine:
    """Gives the same probability to everything."""

    name, precision = "says", "fp32"

    def __init__(self, objectness: float) -> None:
        self._objectness = objectness
        self.closed = False

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        assert list(inputs) == ["l0"]
        return {OBJECTNESS: np.array([self._objectness], np.float32)}

    def close(self) -> None:
        self.closed = True


class Count:
    name = "count"
    num = 0

    def process(self, packet: Packet) -> None:
        self.num += 1

    def close(self) -> None:
        pass


def packet() -> Packet:
    return Packet(3, 0, 0, (48, 64), (64, 96), {"l0": np.zeros((1, 8, 32, 48), np.float32)})


@pytest.mark.parametrize(
    ("objectness", "threshold", "kind"),
    [
        (0.49, None, Kind.EMPTY),
        (0.5, None, Kind.FRAME),
        (0.49, 0.4, Kind.FRAME),
        (0.6, 0.7, Kind.EMPTY),
        (0.0, 0.0, Kind.FRAME),
        (0.999, 1.0, Kind.EMPTY),
        (1.0, 1.0, Kind.FRAME),
    ],
)
def test_below_the_threshold_a_frame_is_empty(
    folder: Path, objectness: float, threshold: float | None, kind: Kind
) -> None:
    neural_filter = Bundle.load(folder).filter
    assert neural_filter is not None
    stage, count, frame = FilterStage(SaysEngine(objectness), neural_filter, threshold), Count(), packet()
    Chain([stage, count], NullObserver()).process(frame)
    assert frame.kind is kind
    # Later stages do not see an empty frame; another one keeps its tensors.
    assert count.num == (kind is Kind.FRAME)
    assert list(frame.tensors) == (["l0"] if kind is Kind.FRAME else [])


def test_what_is_not_a_probability_fails_the_frame_and_what_is_missing_is_named(folder: Path) -> None:
    neural_filter = Bundle.load(folder).filter
    assert neural_filter is not None
    engine = SaysEngine(float("nan"))
    stage = FilterStage(engine, neural_filter)
    with pytest.raises(FrameError, match="neural filter's output is not finite"):
        stage.process(packet())
    with pytest.raises(MessageError, match=r"frame 3: filter reads tensor \[l0\]"):
        stage.process(Packet(3, 0, 0, (48, 64)))
    stage.close()
    assert engine.closed


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_engine_gives_the_golden_probability(folder: Path, engine: str) -> None:
    pytest.importorskip(engine)
    bundle = Bundle.load(folder)
    for frame in bundle.golden_frames(folder):
        wanted = float(frame[OBJECTNESS][0])
        for margin, kind in ((-1e-3, Kind.FRAME), (1e-3, Kind.EMPTY)):
            stage = open_filter(folder, bundle, engine, 1, threshold=wanted + margin)
            golden = Packet(0, 0, 0, (48, 64), (64, 96), {"l0": frame["l0"]})
            stage.process(golden)
            assert golden.kind is kind
            stage.close()


def test_the_chain_with_and_without_it(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.chain() == ("stem", "layers", "transformer")
    assert bundle.chain(is_filtered=True) == ("stem", "filter", "layers", "transformer")
    assert (bundle.head_length(), bundle.head_length(is_filtered=True)) == (2, 3)
    assert "filter.onnx" in bundle.checksums()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "filter.threshold"),
        ({"after": "transformer"}, "must be one of the first 2"),
        ({"after": "layers"}, "the filter reads"),
    ],
)
def test_a_filter_that_does_not_fit_its_bundle_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    raw["filter"] |= change
    (tmp_path / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path, verify=False)


@pytest.mark.parametrize("num", [0, 3])
def test_a_head_that_leaves_no_tail_is_refused(folder: Path, tmp_path: Path, num: int) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(raw | {"num_head_stages": num}))
    with pytest.raises(BundleError, match=r"leaves no tail|greater than or equal to 1"):
        Bundle.load(tmp_path, verify=False)


def test_a_bundle_without_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no neural filter; leave out --filter"):
        make_synthetic_bundle(tmp_path).chain(is_filtered=True)
    with pytest.raises(BundleError, match=r"threshold in \[0, 1\], not \[2\]"):
        make_synthetic_bundle(tmp_path / "b", filter_threshold=2)
