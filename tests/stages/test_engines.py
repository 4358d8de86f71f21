"""Every engine computes the same, writes where it is told, and fails in one sentence."""

import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from splitrail.pipeline.errors import EngineError
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import encode
from splitrail.stages.engine import Engine
from splitrail.stages.engines.onnxruntime import OnnxRuntimeEngine
from splitrail.stages.engines.openvino import OpenVinoEngine
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

ENGINES = [OnnxRuntimeEngine, OpenVinoEngine]
WIRE_OUTPUTS = ("features", "features_fp16", "features_uint8", "features_scale", "features_zero_point")

pytestmark = pytest.mark.parametrize("kind", ENGINES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    for cuts in (0, 1, 2):
        make_synthetic_bundle(root / f"fixed{cuts}", cuts=cuts)
        make_synthetic_bundle(root / f"dynamic{cuts}", cuts=cuts, size=None)
    return root


def load(kind: type, folder: Path, index: int = 0, outputs: tuple[str, ...] | None = None, threads: int = 1) -> Engine:
    stage = Bundle.load(folder).stages[index]
    return kind(folder / stage.graph, stage, threads, outputs=outputs)


def pixels_of(seed: int, height: int = 64, width: int = 96) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return {"pixels": pixels, "valid_size": np.array([height, width - 8], np.int64)}


@pytest.mark.parametrize("size", ["fixed", "dynamic"])
@pytest.mark.parametrize("cuts", [0, 1, 2])
def test_every_graph_gives_the_golden_outputs(kind: type, root: Path, size: str, cuts: int) -> None:
    folder = root / f"{size}{cuts}"
    bundle = Bundle.load(folder)
    frames = bundle.golden_frames(folder)
    for index, stage in enumerate(bundle.stages):
        engine = load(kind, folder, index)
        outputs = [tensor.name for tensor in stage.outputs]
        for frame in frames:
            results = engine.run({tensor.name: frame[tensor.name] for tensor in stage.inputs}, outputs)
            assert list(results) == outputs
            for tensor in stage.outputs:
                assert results[tensor.name].dtype == tensor.dtype
                if tensor.name in frame:
                    np.testing.assert_allclose(results[tensor.name], frame[tensor.name], atol=1e-4)
        engine.close()


def test_sizes_may_change_from_frame_to_frame(kind: type, root: Path) -> None:
    engine = load(kind, root / "dynamic1", outputs=WIRE_OUTPUTS[:3])
    for height, width in ((64, 96), (32, 200), (8, 8), (64, 96)):
        inputs = pixels_of(0, height, width)
        target = np.empty((1, 16, height // 8, width // 8), np.float32)
        bound = engine.run(inputs, WIRE_OUTPUTS[:3], {"features": target})
        free = engine.run(inputs, WIRE_OUTPUTS[:3])
        assert bound["features"] is target
        for name in WIRE_OUTPUTS[:3]:
            assert np.array_equal(bound[name], free[name])


@pytest.mark.parametrize("offset", [512, 513, 518])
def test_targets_are_written_in_place_wherever_they_lie(kind: type, root: Path, offset: int) -> None:
    engine = load(kind, root / "fixed1")
    size = 16 * 8 * 12
    buffer = np.full(offset + 5 * size + 64, 0xAB, np.uint8)
    features = buffer[offset : offset + 4 * size].view(np.float32).reshape(1, 16, 8, 12)
    codes = buffer[offset + 4 * size : offset + 5 * size].reshape(1, 16, 8, 12)
    targets = {"features": features, "features_uint8": codes}
    for seed in range(3):
        results = engine.run(pixels_of(seed), WIRE_OUTPUTS, targets)
        free = engine.run(pixels_of(seed), WIRE_OUTPUTS)
        assert results["features"] is features
        assert results["features_uint8"] is codes
        assert not np.shares_memory(results["features_fp16"], buffer)
        for name in WIRE_OUTPUTS:
            assert np.array_equal(results[name], free[name])
    assert (buffer[:offset] == 0xAB).all()
    assert (buffer[offset + 5 * size :] == 0xAB).all()


def test_outputs_stay_as_they_are_when_more_frames_follow(kind: type, root: Path) -> None:
    for folder in (root / "fixed1", root / "dynamic1"):
        engine = load(kind, folder)
        results = [engine.run(pixels_of(seed), WIRE_OUTPUTS) for seed in range(4)]
        copies = [{name: array.copy() for name, array in result.items()} for result in results]
        target = np.zeros((1, 16, 8, 12), np.float32)
        engine.run(pixels_of(9), WIRE_OUTPUTS, {"features": target})
        kept = target.copy()
        engine.run(pixels_of(10), WIRE_OUTPUTS)
        engine.close()
        for result, copy in zip(results, copies, strict=True):
            assert all(np.array_equal(result[name], copy[name]) for name in WIRE_OUTPUTS)
        assert np.array_equal(target, kept)


def test_inputs_may_be_read_only(kind: type, root: Path) -> None:
    engine = load(kind, root / "fixed1", outputs=("features",))
    inputs = pixels_of(0)
    expected = engine.run(inputs, ["features"])["features"]
    for array in inputs.values():
        array.flags.writeable = False
    assert np.array_equal(engine.run(inputs, ["features"])["features"], expected)


def test_only_the_outputs_it_was_opened_with_are_there(kind: type, root: Path) -> None:
    engine = load(kind, root / "fixed1", outputs=("features_uint8", "features_scale"))
    everything = load(kind, root / "fixed1").run(pixels_of(0), WIRE_OUTPUTS)
    results = engine.run(pixels_of(0), ["features_scale", "features_uint8"])
    assert list(results) == ["features_scale", "features_uint8"]
    for name, array in results.items():
        assert np.array_equal(array, everything[name])
    with pytest.raises(EngineError, match=r"backbone.onnx.*features_fp16"):
        engine.run(pixels_of(0), ["features_fp16"])


def test_wire_forms_of_the_graph_are_the_bytes_of_the_codec(kind: type, root: Path) -> None:
    outputs = ("memory", "memory_fp16", "memory_uint8", "memory_scale", "memory_zero_point")
    engine = load(kind, root / "dynamic2", 1, outputs)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((1, 16, *rng.integers(1, 40, 2))) * 10 ** rng.uniform(-6, 6)
        x += rng.choice([-1, 0, 1]) * 10 ** rng.uniform(-3, 5)
        x *= seed % 10 > 0
        results = engine.run({"features": x.astype(np.float32), "valid_size": np.array([8, 8])}, outputs)
        for wire in ("fp16", "uint8"):
            for suffix, array in encode(results["memory"], wire).items():
                assert array.tobytes() == results["memory" + suffix].tobytes(), (seed, suffix)


def test_it_runs_on_as_many_threads_as_it_is_told(kind: type, root: Path) -> None:
    load(kind, root / "fixed1").run(pixels_of(0), ["features"])
    before = psutil.Process().num_threads()
    engine = load(kind, root / "fixed1", threads=3)
    engine.run(pixels_of(0), ["features"])
    assert psutil.Process().num_threads() - before <= 3
    engine.close()


def test_a_target_of_another_shape_is_an_error_with_the_name_of_the_graph(kind: type, root: Path) -> None:
    engine = load(kind, root / "dynamic1", outputs=("features",))
    with pytest.raises(EngineError, match=r"failed on .*backbone.onnx"):
        engine.run(pixels_of(0), ["features"], {"features": np.zeros((1, 16, 3, 3), np.float32)})
    with pytest.raises(EngineError, match=r"failed on .*backbone.onnx"):
        engine.run(pixels_of(0) | {"valid_size": np.zeros(2, np.float32)}, ["features"])


@pytest.mark.parametrize("outputs", [None, ("features",)])
def test_a_graph_that_is_missing_or_damaged_is_refused_by_name(
    kind: type, root: Path, tmp_path: Path, outputs: tuple[str, ...] | None
) -> None:
    stage = Bundle.load(root / "fixed1").stages[0]
    whole = (root / "fixed1" / "backbone.onnx").read_bytes()
    with pytest.raises(EngineError, match=r"refuses .*nothing.onnx"):
        kind(tmp_path / "nothing.onnx", stage, 1, outputs=outputs)
    for content in (b"no graph at all", whole[: len(whole) // 2]):
        (tmp_path / "broken.onnx").write_bytes(content)
        with pytest.raises(EngineError, match=r"refuses .*broken.onnx") as error:
            kind(tmp_path / "broken.onnx", stage, 1, outputs=outputs)
        assert "\n" not in str(error.value)


def test_a_missing_library_is_answered_with_the_pip_line(
    kind: type, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind.name, None)
    with pytest.raises(EngineError, match=rf"pip install 'splitrail\[{kind.name}\]'"):
        load(kind, root / "fixed1")


def test_a_precision_it_does_not_have_is_refused(kind: type, root: Path) -> None:
    stage = Bundle.load(root / "fixed1").stages[0]
    with pytest.raises(EngineError, match="int8"):
        kind(root / "fixed1" / stage.graph, stage, 1, "int8")


def test_bf16_runs_where_the_cpu_has_it_and_is_refused_elsewhere(kind: type, root: Path) -> None:
    import openvino

    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    stage = Bundle.load(root / "fixed1").stages[0]
    if kind is OpenVinoEngine and native:
        engine = kind(root / "fixed1" / stage.graph, stage, 1, "bf16")
        exact = load(kind, root / "fixed1").run(pixels_of(0), ["features"])["features"]
        rounded = engine.run(pixels_of(0), ["features"])["features"]
        assert rounded.dtype == np.float32
        assert 0 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05
    else:
        with pytest.raises(EngineError, match="bf16"):
            kind(root / "fixed1" / stage.graph, stage, 1, "bf16")
