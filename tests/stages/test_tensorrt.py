"""The TensorRT engine in all three generations, on recorded fakes of `tensorrt` and `pycuda` (`fakes/`).

The fakes compute: what comes out is held against the golden frames and the codec. They are strict as CUDA is, so that a
missing wait, a copy of pageable memory or a call from another thread fails here too.
"""

import hashlib
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from host_kernels import compiler

from splitrail.pipeline.errors import EngineError, FrameError
from splitrail.pipeline.message import new_buffer, tensor_views
from splitrail.pipeline.packet import TensorSpec
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import decode, encode
from splitrail.stages.engine_choice import check_engine, choose_engine
from splitrail.stages.engines import cuda_devices, registry
from splitrail.stages.engines.cuda_thread import CudaThread
from splitrail.stages.engines.registry import available_engines, engine_kind, engine_offers, register_engine
from splitrail.stages.engines.tensorrt.engine import TensorRtEngine, open_engine
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

FAKES = Path(__file__).parent / "fakes"
GENERATIONS = ["8_2", "10", "11"]
WIRES = ("features", "features_fp16", "features_uint8", "features_scale", "features_zero_point")
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler with half floats here")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("bundle")
    return folder, make_synthetic_bundle(folder)


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gpu(generation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The fakes in the place of the libraries, for this process and those it starts; gives `pycuda.driver`."""
    # Imported here because they add to sys.path themselves, which is put back as it was after each test.
    importlib.import_module("onnxruntime.transformers.float16")
    importlib.import_module("onnxruntime.quantization")
    for folder in ("shared", f"tensorrt_{generation}"):
        monkeypatch.syspath_prepend(FAKES / folder)
    for name in ("FAKE_GPU", "FAKE_TENSORRT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield importlib.import_module("pycuda.driver")
    CudaThread._threads.clear()
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pycuda", "tensorrt", "fake_tensorrt"):
            del sys.modules[name]


def load(
    bundle: tuple[Path, Bundle], outputs: tuple[str, ...] = WIRES, precision: str = "fp32", index: int = 0
) -> TensorRtEngine:
    return open_engine(*bundle, index, outputs=outputs, threads=1, precision=precision)


def inputs_of(bundle: tuple[Path, Bundle], number: int = 0, index: int = 0) -> dict[str, np.ndarray]:
    frame = bundle[1].golden_frames(bundle[0])[number]
    return {tensor.name: frame[tensor.name] for tensor in bundle[1].stages[index].inputs}


def names(gpu: ModuleType) -> list[str]:
    return [call[0] for call in gpu.CALLS]


@needs_compiler
def test_the_chain_gives_the_golden_frames_and_the_codecs_bytes(gpu: ModuleType, bundle: tuple[Path, Bundle]) -> None:
    head, tail = load(bundle), load(bundle, ("pred_logits", "pred_boxes"), index=1)
    for golden in bundle[1].golden_frames(bundle[0]):
        features = head.run({"pixels": golden["pixels"], "valid_size": golden["valid_size"]}, WIRES)
        assert list(features) == list(WIRES)
        np.testing.assert_allclose(features["features"], golden["features"], atol=1e-5)
        for wire in ("fp16", "uint8"):
            for suffix, array in encode(features["features"], wire).items():
                assert features["features" + suffix].tobytes() == array.tobytes(), suffix
        inputs = {"features": features["features"], "valid_size": golden["valid_size"]}
        for name, array in tail.run(inputs, ["pred_logits", "pred_boxes"]).items():
            np.testing.assert_allclose(array, golden[name], atol=1e-5)
    head.close()
    tail.close()
    assert gpu.CALLS[-1] == ("detach",)


@needs_compiler
def test_calls_come_in_the_order_of_the_generation(
    gpu: ModuleType, generation: str, bundle: tuple[Path, Bundle]
) -> None:
    engine = load(bundle, ("features_uint8", "features_scale", "features_zero_point"))
    calls = names(gpu)
    # A context that sleeps while it waits, in a thread of its own.
    assert gpu.CALLS[1] == ("make_context", gpu.ctx_flags.SCHED_BLOCKING_SYNC, "cuda0_0")
    flags = 0 if generation == "11" else 1
    assert ("create_network", flags) in gpu.CALLS
    assert ("clear_flag", "TF32") in gpu.CALLS
    assert ("set_memory_pool_limit" in calls) == (generation != "8_2")
    bound = [call[1] for call in gpu.CALLS if call[0] == "set_tensor_address"]
    assert bound == ([] if generation == "8_2" else ["pixels", "valid_size", "features"])
    gpu.CALLS.clear()
    engine.run(inputs_of(bundle), ("features_uint8", "features_scale", "features_zero_point"))
    size, pixels = 16 * 8 * 12, 64 * 96 * 3
    integer = "int32" if generation == "8_2" else "int64"
    grid = (-(-size // 256), 1)
    steps = [call for call in gpu.CALLS if call[0] != "pagelocked_empty"]
    assert steps == [
        ("memcpy_htod_async", pixels, "uint8"),
        ("widen", (f"device[{pixels}]", f"int64({pixels})", f"device[{4 * pixels}]"), (256, 1, 1), (72, 1)),
        ("memcpy_htod_async", 2 * np.dtype(integer).itemsize, integer),
        ("execute_async_v2", 3) if generation == "8_2" else ("execute_async_v3",),
        *[call for call in steps if call[0] == "mem_alloc"],
        ("memset_d32_async", 0x80000000, 2),
        ("range", (f"device[{4 * size}]", f"int64({size})", "device[8]"), (256, 1, 1), grid),
        (
            "quantise",
            (f"device[{4 * size}]", f"int64({size})", "device[8]", f"device[{size}]", "device[4]", "device[1]"),
            (256, 1, 1),
            grid,
        ),
        ("memcpy_dtoh_async", size, "uint8"),
        ("memcpy_dtoh_async", 4, "float32"),
        ("memcpy_dtoh_async", 1, "uint8"),
        ("synchronize",),
    ]
    # What the first frame needed is there for all that follow.
    gpu.CALLS.clear()
    engine.run(inputs_of(bundle, 1), ("features_uint8", "features_scale", "features_zero_point"))
    assert not {"mem_alloc", "pagelocked_empty", "SourceModule"} & set(names(gpu))
    engine.close()


@needs_compiler
def test_outputs_go_straight_into_a_message_from_its_second_use_on(
    gpu: ModuleType, bundle: tuple[Path, Bundle]
) -> None:
    engine = load(bundle)
    specs = (TensorSpec("features", "float32", (1, 16, 8, 12)), TensorSpec("features_uint8", "uint8", (1, 16, 8, 12)))
    buffer = new_buffer(8 * 16 * 8 * 12)
    buffer[:] = 0xCD
    for frame in range(4):
        targets = tensor_views(buffer, specs)
        results = engine.run(inputs_of(bundle, frame % 2), WIRES, targets)
        free = engine.run(inputs_of(bundle, frame % 2), WIRES)
        for name in WIRES:
            assert np.array_equal(results[name], free[name])
        assert all(results[name] is targets[name] for name in targets)
    assert names(gpu).count("register_host_memory") == 1
    assert (buffer[:256] == 0xCD).all()
    engine.close()
    assert "unregister" in names(gpu)


@needs_compiler
def test_a_jetson_that_cannot_lock_pages_copies_and_asks_once(
    gpu: ModuleType, bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPU", "no register")
    engine = load(bundle)
    target = new_buffer(4 * 16 * 8 * 12)[256:].view(np.float32)[: 16 * 8 * 12].reshape(1, 16, 8, 12)
    for _ in range(4):
        results = engine.run(inputs_of(bundle), ("features",), {"features": target})
        assert results["features"] is target
        np.testing.assert_allclose(target, bundle[1].golden_frames(bundle[0])[0]["features"], atol=1e-5)
    assert names(gpu).count("register_host_memory") == 1
    engine.close()


def test_results_outlive_the_next_frame_and_the_engine(gpu: ModuleType, bundle: tuple[Path, Bundle]) -> None:
    engine = load(bundle, ("features",))
    kept = [engine.run(inputs_of(bundle, number), ("features",))["features"] for number in (0, 1, 0)]
    copies = [array.copy() for array in kept]
    engine.close()
    assert all(np.array_equal(array, copy) for array, copy in zip(kept, copies, strict=True))
    assert np.array_equal(kept[0], kept[2])
    assert not np.array_equal(kept[0], kept[1])


def test_any_thread_may_open_run_and_close(gpu: ModuleType, bundle: tuple[Path, Bundle]) -> None:
    engine = load(bundle, ("features",))
    seen: list[np.ndarray] = []
    lane = threading.Thread(target=lambda: seen.append(engine.run(inputs_of(bundle), ("features",))["features"]))
    lane.start()
    lane.join()
    np.testing.assert_allclose(seen[0], bundle[1].golden_frames(bundle[0])[0]["features"], atol=1e-5)
    closer = threading.Thread(target=engine.close)
    closer.start()
    closer.join()
    assert gpu.CALLS[-1] == ("detach",)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cuda")] == []


def test_without_nvcc_the_codec_makes_the_same_bytes(
    gpu: ModuleType, bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_GPU", "no nvcc")
    engine = load(bundle)
    target = np.zeros((1, 16, 8, 12), np.uint8)
    results = engine.run(inputs_of(bundle), WIRES, {"features_uint8": target})
    assert results["features_uint8"] is target
    for wire in ("fp16", "uint8"):
        for suffix, array in encode(results["features"], wire).items():
            assert results["features" + suffix].tobytes() == array.tobytes()
    assert "PATH" in capfd.readouterr().err
    engine.close()


@needs_compiler
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_agree_as_far_as_they_may(
    gpu: ModuleType, generation: str, bundle: tuple[Path, Bundle], precision: str
) -> None:
    if (generation, precision) == ("8_2", "int8"):
        with pytest.raises(EngineError, match="this GPU has no fast int8; take tensorrt:fp16"):
            load(bundle, precision=precision)
        return
    engine = load(bundle, precision=precision)
    assert (engine.name, engine.precision) == ("tensorrt", precision)
    flags = [call[1] for call in gpu.CALLS if call[0] == "set_flag"]
    batches = [call for call in gpu.CALLS if call[0] == "batch"]
    golden = bundle[1].golden_frames(bundle[0])
    if generation == "11":
        # The graph itself says it, in Q/DQ pairs for int8.
        assert flags == batches == []
        num_pairs = next(call[1] for call in gpu.CALLS if call[0] == "parse")
        assert (num_pairs > 0) == (precision == "int8")
    else:
        assert flags == [precision.upper()]
        assert batches == [("batch", 2)] * (len(golden) if precision == "int8" else 0)
    tolerance = {"fp16": 3e-2, "int8": 2e-1}[precision]
    for number, frame in enumerate(golden):
        results = engine.run(inputs_of(bundle, number), WIRES)
        error = np.linalg.norm(results["features"] - frame["features"]) / np.linalg.norm(frame["features"])
        assert 0 < error < tolerance
        # The wire's bytes are the codec's of what the engine computed, whatever its precision.
        for suffix, array in encode(results["features"], "uint8").items():
            assert results["features" + suffix].tobytes() == array.tobytes()
    engine.close()


def test_an_engine_is_built_once_and_then_taken_from_the_cache(
    gpu: ModuleType, generation: str, bundle: tuple[Path, Bundle], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = load(bundle, ("features",))
    expected = first.run(inputs_of(bundle), ("features",))["features"]
    first.close()
    said = capfd.readouterr().err
    assert "engine: building backbone in fp32 with TensorRT" in said
    assert "done after" in said
    (plan,) = (tmp_path / "cache" / "splitrail" / "tensorrt").glob("*.plan")
    assert not list(plan.parent.glob("*.partial"))
    header = json.loads(plan.read_bytes().partition(b"\n")[0])
    assert header["key"]["tensorrt"] == {"8_2": "8.2.1.8", "10": "10.16.1.11", "11": "11.4.0.106"}[generation]
    assert header["key"]["capability"] == "8.7"
    assert header["key"]["shapes"] == {"pixels": [1, 64, 96, 3], "valid_size": [2]}
    again = load(bundle, ("features_fp16",))
    assert names(gpu).count("build_serialized_network") == 1
    assert capfd.readouterr().err.count("building") == 0
    assert np.array_equal(again.run(inputs_of(bundle), ("features",))["features"], expected)
    again.close()


@pytest.mark.parametrize("change", ["precision", "gpu", "version", "graph", "damage", "truncation"])
def test_what_a_plan_depends_on_builds_another_one(
    gpu: ModuleType,
    generation: str,
    bundle: tuple[Path, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    load(bundle, ("features",)).close()
    (plan,) = (tmp_path / "cache" / "splitrail" / "tensorrt").glob("*.plan")
    precision, used = "fp32", bundle
    if change == "precision":
        precision = "fp16"
    elif change == "gpu":
        monkeypatch.setenv("FAKE_GPU_NAME", "Xavier (fake)")
    elif change == "version":
        monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "10.3.0")
    elif change == "graph":
        other = tmp_path / "other"
        used = (other, make_synthetic_bundle(other, seed=1))
    elif change == "damage":
        content = bytearray(plan.read_bytes())
        content[-100] ^= 1
        plan.write_bytes(content)
    else:
        plan.write_bytes(plan.read_bytes()[:-7])
    load(used, ("features",), precision).close()
    assert names(gpu).count("build_serialized_network") == 2


def test_a_cached_engine_that_tensorrt_refuses_is_named_with_the_remedy(
    gpu: ModuleType, bundle: tuple[Path, Bundle], tmp_path: Path
) -> None:
    load(bundle, ("features",)).close()
    (plan,) = (tmp_path / "cache" / "splitrail" / "tensorrt").glob("*.plan")
    first, _, body = plan.read_bytes().partition(b"\n")
    inner, _, graph = body.partition(b"\n")
    made = json.loads(inner) | {"version": "8.0.1.6"}
    body = json.dumps(made).encode() + b"\n" + graph
    header = json.loads(first) | {"plan_sha256": hashlib.sha256(body).hexdigest()}
    plan.write_bytes(json.dumps(header).encode() + b"\n" + body)
    with pytest.raises(EngineError) as caught:
        load(bundle, ("features",))
    text = str(caught.value)
    assert text.startswith(f"the cached engine {plan} is not one for TensorRT ")
    assert "got 8.0.1.6, please rebuild" in text
    assert text.endswith("; delete that file, and it is built again")
    assert (caught.value.exit_code, "\n" in text) == (2, False)
    assert names(gpu)[-1] == "detach"


def test_a_cached_engine_of_another_host_under_this_ones_name_is_refused(
    gpu: ModuleType, bundle: tuple[Path, Bundle], tmp_path: Path
) -> None:
    load(bundle, ("features",)).close()
    (plan,) = (tmp_path / "cache" / "splitrail" / "tensorrt").glob("*.plan")
    first, _, body = plan.read_bytes().partition(b"\n")
    header = json.loads(first)
    header["key"] |= {"tensorrt": "8.0.1.6", "gpu": "NVIDIA Tegra X2"}
    plan.write_bytes(json.dumps(header).encode() + b"\n" + body)
    with pytest.raises(
        EngineError, match=r"was built by TensorRT 8\.0\.1\.6 for NVIDIA Tegra X2 in fp32 and this host"
    ):
        load(bundle, ("features",))


def test_an_operator_that_tensorrt_lacks_is_named(
    gpu: ModuleType, bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "lacks Softmax")
    with pytest.raises(EngineError) as caught:
        load(bundle, ("pred_logits",), index=1)
    text = str(caught.value)
    assert text.startswith("TensorRT ")
    assert "cannot run transformer.onnx (" in text
    assert "Softmax" in text
    assert "plugin" in text.lower()
    assert "take another engine" in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "FAKE_TENSORRT",
            "no memory",
            r"cannot build backbone.onnx in fp32 \(.*could not be allocated.*\); end what else",
        ),
        ("FAKE_TENSORRT", "no context", r"cannot run .*backbone.onnx \(it gives no reason\)"),
        ("FAKE_GPU", "no memory", r"the GPU's memory is full \(cuMemAlloc failed: out of memory\); end what else"),
        ("FAKE_GPU", "no device", r"there is no GPU 0 to run on \(cuInit failed: no CUDA-capable device is detected\)"),
    ],
)
def test_trouble_is_one_sentence_and_leaves_no_thread(
    gpu: ModuleType,
    bundle: tuple[Path, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineError, match=message) as caught:
        load(bundle, ("features",))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cuda")] == []
    # And the next one opens as if nothing had happened.
    monkeypatch.delenv(variable)
    load(bundle, ("features",)).close()


def test_a_later_engine_still_learns_tensorrts_reasons(
    gpu: ModuleType, bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(bundle, ("features",)).close()
    monkeypatch.setenv("FAKE_TENSORRT", "no memory")
    with pytest.raises(EngineError, match=r"could not be allocated.*; end what else"):
        load(bundle, ("pred_logits",), index=1)


def test_what_does_not_fit_a_frame_is_named(gpu: ModuleType, bundle: tuple[Path, Bundle]) -> None:
    engine = load(bundle, ("features",))
    with pytest.raises(EngineError, match=r"failed on .*backbone.onnx.*\[pixels\] has the shape"):
        engine.run(inputs_of(bundle) | {"pixels": np.zeros((1, 8, 8, 3), np.uint8)}, ("features",))
    with pytest.raises(EngineError, match=r"failed on .*backbone.onnx.*features"):
        engine.run(inputs_of(bundle), ("features",), {"features": np.zeros((1, 16, 3, 3), np.float32)})
    with pytest.raises(EngineError, match=r"failed on .*backbone.onnx.*pred_boxes"):
        engine.run(inputs_of(bundle), ("pred_boxes",))
    engine.close()


def test_a_tensor_that_is_not_finite_fails_its_frame_only(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("memory_uint8", "memory_scale", "memory_zero_point")
    bundle = (tmp_path / "three", make_synthetic_bundle(tmp_path / "three", cuts=2))
    inputs = inputs_of(bundle, index=1)
    bad = inputs | {"features": np.full_like(inputs["features"], np.nan)}
    if compiler() is not None:
        engine = load(bundle, names, index=1)
        parts = engine.run(bad, names)
        with pytest.raises(FrameError, match="scale"):
            decode({name.removeprefix("memory"): array for name, array in parts.items()}, "uint8")
        assert np.isfinite(engine.run(inputs, names)["memory_scale"])
        engine.close()
    monkeypatch.setenv("FAKE_GPU", "no nvcc")
    engine = load(bundle, names, index=1)
    with pytest.raises(FrameError, match="not finite"):
        engine.run(bad, names)
    assert np.isfinite(engine.run(inputs, names)["memory_scale"])
    engine.close()


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("bf16", "cpu", "tensorrt runs graphs in fp32, fp16, int8, not in bf16"),
        ("fp32", "tpu", r"tensorrt has no device \[tpu\]"),
        ("fp32", "cuda:7", "there is no GPU 7 to run on"),
    ],
)
def test_precisions_and_devices_that_are_not_there(
    gpu: ModuleType, bundle: tuple[Path, Bundle], precision: str, device: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        open_engine(*bundle, 0, outputs=("features",), threads=1, precision=precision, device=device)


def test_a_bundle_of_variable_size_is_refused(gpu: ModuleType, tmp_path: Path) -> None:
    bundle = make_synthetic_bundle(tmp_path / "dynamic", size=None)
    with pytest.raises(EngineError, match=r"one size only.*--size 480x640"):
        load((tmp_path / "dynamic", bundle), ("features",))


def test_outputs_that_vary_by_frame_are_refused(gpu: ModuleType, bundle: tuple[Path, Bundle]) -> None:
    folder, manifest = bundle
    stage = manifest.stages[1]
    outputs = tuple(tensor.model_copy(update={"shape": (1, "boxes", 4)}) for tensor in stage.outputs)
    varying = manifest.model_copy(
        update={"stages": (manifest.stages[0], stage.model_copy(update={"outputs": outputs}))}
    )
    with pytest.raises(EngineError, match=r"transformer.onnx vary by frame; take another engine"):
        load((folder, varying), ("pred_logits",), index=1)


def test_a_missing_library_is_answered_with_the_pip_line(
    bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"not installed .* pip install 'splitrail\[tensorrt\]'"):
        load(bundle, ("features",))


@needs_compiler
def test_auto_refuses_a_wrong_fp16_and_names_it_where_it_is_forced(
    gpu: ModuleType, bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "wrong fp16")
    monkeypatch.setattr(registry, "_kinds", {"tensorrt": engine_kind("tensorrt")})
    candidates = [("tensorrt", "fp32"), ("tensorrt", "fp16")]
    said: list[str] = []
    choice = choose_engine(
        *bundle, threads=1, cache=tmp_path, candidates=candidates, timing_s=0, on_progress=said.append
    )
    by_precision = {trial.precision: trial for trial in choice.trials}
    assert choice.precision == "fp32", str(choice)
    assert not by_precision["fp32"].disagreement
    assert any(text.startswith("building backbone in fp16") for text in said)
    assert "[features] is off by" in by_precision["fp16"].disagreement
    forced = check_engine(*bundle, "tensorrt", "fp16", threads=1, cache=tmp_path, timing_s=0)
    assert "[features] is off by" in forced.disagreement
    assert "taken, though [features] is off by" in str(forced)


def test_a_host_without_a_gpu_does_not_offer_it(
    gpu: ModuleType, bundle: tuple[Path, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(driver: str = "") -> None:
        raise cuda_devices.NoCudaError("the CUDA driver finds no GPU")

    monkeypatch.setattr(cuda_devices, "cuda_devices", no_gpu)
    reasons = {offer.missing for offer in engine_offers() if offer.engine == "tensorrt"}
    assert reasons == {"the CUDA driver finds no GPU; take another engine"}
    assert not [engine for engine, _ in available_engines() if engine == "tensorrt"]
    monkeypatch.setattr(cuda_devices, "cuda_devices", lambda driver="": [object()])
    assert [precision for engine, precision in available_engines() if engine == "tensorrt"] == ["fp32", "fp16", "int8"]
    register_engine(engine_kind("tensorrt"))


@needs_compiler
def test_a_build_that_takes_long_says_where_it_is(
    gpu: ModuleType,
    generation: str,
    bundle: tuple[Path, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from splitrail.stages.engines.tensorrt import build

    monkeypatch.setenv("FAKE_TENSORRT", "slow build")
    monkeypatch.setattr(build, "_REPORT_S", 0.05)
    load(bundle, ("features",)).close()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("engine: building backbone")]
    assert len(lines) >= 4


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("fp16", 3e-2), ("int8", 2e-1)])
def test_on_a_gpu_it_agrees_with_the_golden_frames(
    bundle: tuple[Path, Bundle], tmp_path: Path, precision: str, tolerance: float
) -> None:
    """The real libraries."""
    pytest.importorskip("tensorrt", reason="no TensorRT here")
    if reason := cuda_devices.why_no_tensorrt():
        pytest.skip(reason)
    engine = TensorRtEngine(*bundle, 0, WIRES, precision, cache=tmp_path)
    for number, frame in enumerate(bundle[1].golden_frames(bundle[0])):
        results = engine.run(inputs_of(bundle, number), WIRES)
        error = np.linalg.norm(results["features"] - frame["features"]) / np.linalg.norm(frame["features"])
        assert error < tolerance
        for wire in ("fp16", "uint8"):
            for suffix, array in encode(results["features"], wire).items():
                assert results["features" + suffix].tobytes() == array.tobytes()
    engine.close()
