"""The torch engine on CUDA: what needs no GPU on a recorder in the place of `torch.cuda`, the rest with the mark `gpu`."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from splitrail.models import engine_cuda
from splitrail.models.engine import TorchEngine, open_torch_engine
from splitrail.models.engine_cuda import CudaTorchEngine, Literals
from splitrail.models.export import export_bundle
from splitrail.pipeline.errors import EngineError
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import encode

OVERRIDES = {"num_classes": 5, "num_queries": 7, "encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "width": 8}
WIRES = ("features", "features_fp16", "features_uint8", "features_scale", "features_zero_point")
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or a torch without CUDA"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("bundle") / "b"
    export_bundle("detr-resnet-18", out, size=(96, 161), overrides=OVERRIDES, include_torch=True)
    return out


class Recorder:
    """`torch.cuda` as far as the engine uses it, on the CPU: what happens, and in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, can_capture: bool = True, graph_ms: float = 1.0) -> None:
        self.calls: list[str] = []
        self._stream = ["none"]
        recorder = self
        names = iter(("computing", "copying"))

        class Stream:
            def __init__(self, device):
                self.name = next(names)

            def wait_stream(self, other):
                recorder.calls.append(f"{self.name} waits for {other.name}")

        class Event:
            def __init__(self, enable_timing=False, blocking=False):
                assert blocking, "a wait that spins takes the communication thread's core"
                self._kind = ""

            def record(self, stream):
                self._kind = "graph" if "replay" in recorder.calls[-1:] else "calls"
                recorder.calls.append(f"event on {stream.name}")

            def synchronize(self):
                recorder.calls.append("synchronize")

            def elapsed_time(self, end):
                return graph_ms if end._kind == "graph" else 2.0

        class Graph:
            def replay(self):
                assert recorder._stream[-1] == "computing"
                recorder.calls.append("replay")
                for place, value in zip(self.places, self.compute(), strict=True):
                    place.copy_(value)

        @contextlib.contextmanager
        def stream(which):
            self._stream.append(which.name)
            yield
            self._stream.pop()

        @contextlib.contextmanager
        def graph(captured, stream):
            self.calls.append(f"capture on {stream.name}")
            if not can_capture:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            self.captured = captured
            yield

        copy = torch.Tensor.copy_

        def recorded_copy(target, source, non_blocking=False):
            if self._stream[-1] == "copying":
                assert non_blocking
                self.calls.append("copy")
            return copy(target, source)

        monkeypatch.setattr(torch.Tensor, "copy_", recorded_copy)
        for name, value in {
            "Stream": Stream, "Event": Event, "CUDAGraph": Graph, "stream": stream, "graph": graph,
            "synchronize": lambda device: self.calls.append("device synchronize"),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(engine_cuda, "pinned", lambda tensor: tensor)


def cuda_engine(folder: Path, precision: str = "fp32", index: int = 0) -> CudaTorchEngine:
    """The CUDA engine with its weights on the CPU."""
    plain = open_torch_engine(folder, Bundle.load(folder), index, 1)
    assert isinstance(plain, TorchEngine)
    return CudaTorchEngine(plain._segment, torch.device("cpu"), precision)


def hold_graph(recorder: Recorder, engine: CudaTorchEngine) -> None:
    """What the captured graph does when it is replayed."""
    call = engine._call

    def captured_call(prepared, only_fp32):
        values = call(prepared, only_fp32)
        if recorder.calls and recorder.calls[-1].startswith("capture"):
            recorder.captured.places = values
            recorder.captured.compute = lambda: call(prepared, only_fp32)
        return values

    engine._call = captured_call  # type: ignore[method-assign]


@pytest.mark.parametrize("can_capture", [True, False])
def test_a_frame_is_copied_computed_fetched_and_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, can_capture: bool
) -> None:
    recorder = Recorder(monkeypatch, can_capture=can_capture)
    engine = cuda_engine(folder)
    hold_graph(recorder, engine)
    first, second = Bundle.load(folder).golden_frames(folder)
    expected = {name: first[name] for name in ("features",)}
    result = engine.run(first, ["features"])
    assert "capture on computing" in recorder.calls
    recorder.calls.clear()
    again = engine.run(second, ["features"])
    work = ["replay"] if can_capture else []
    assert recorder.calls == [
        "copy",
        "copy",
        "computing waits for copying",
        "event on computing",
        *work,
        "event on computing",
        "copying waits for computing",
        "copy",
        "event on copying",
        "synchronize",
    ]
    # Another memory layout rounds differently, by far less than a wire does.
    np.testing.assert_allclose(result["features"], expected["features"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(again["features"], second["features"], rtol=0, atol=1e-4)
    assert list(engine.device_times_ms()) == [f"{'graph' if can_capture else 'calls'} (1, 96, 161, 3)"]
    engine.close()


def test_a_graph_that_is_slower_than_calling_is_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, graph_ms=3.0)
    engine = cuda_engine(folder)
    hold_graph(recorder, engine)
    frame = Bundle.load(folder).golden_frames(folder)[0]
    engine.run(frame, ["features"])
    recorder.calls.clear()
    np.testing.assert_allclose(engine.run(frame, ["features"])["features"], frame["features"], rtol=0, atol=1e-4)
    assert "replay" not in recorder.calls


def test_wire_forms_have_the_codecs_bytes_and_targets_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_graph(recorder := Recorder(monkeypatch), engine := cuda_engine(folder, "bf16"))
    frame = Bundle.load(folder).golden_frames(folder)[0]
    shape = frame["features"].shape
    targets = {"features": np.empty(shape, np.float32), "features_uint8": np.empty(shape, np.uint8)}
    results = engine.run(frame, WIRES, targets)
    assert all(results[name] is target for name, target in targets.items())
    assert results["features"].dtype == np.float32
    for wire in ("fp16", "uint8"):
        for suffix, array in encode(results["features"], wire).items():
            assert results["features" + suffix].tobytes() == array.tobytes()
    error = np.linalg.norm(results["features"] - frame["features"]) / np.linalg.norm(frame["features"])
    assert 1e-5 < error < 8e-2
    kept = results["features_fp16"].copy()
    engine.run(Bundle.load(folder).golden_frames(folder)[1], WIRES)
    assert np.array_equal(results["features_fp16"], kept)
    assert recorder.calls


def test_errors_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder(monkeypatch)
    engine = cuda_engine(folder)
    frame = Bundle.load(folder).golden_frames(folder)[0]
    with pytest.raises(EngineError, match="no 'nothing'"):
        engine.run(frame, ["nothing"])

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand so on")

    engine._prepare = full  # type: ignore[assignment,method-assign]
    with pytest.raises(EngineError, match="GPU's memory is full") as caught:
        engine.run(frame, ["features"])
    assert caught.value.exit_code == 2
    with pytest.raises(EngineError, match="not in int8"):
        cuda_engine(folder, "int8")


class _Literal(TorchDispatchMode):
    """Counts what cannot be in a CUDA graph: values from the host, and values that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in ("aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero"):
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("index", [0, 1])
def test_after_its_first_frame_a_detr_needs_nothing_from_the_host(folder: Path, index: int) -> None:
    """Literals are made once, so that the second call can be captured; and the values stay what they were."""
    bundle = Bundle.load(folder)
    segment = open_torch_engine(folder, bundle, index, 1)._segment  # type: ignore[attr-defined]
    frame = bundle.golden_frames(folder)[0]
    x, valid_size = torch.from_numpy(frame[segment.input_name]), torch.from_numpy(frame["valid_size"])
    literals = Literals()
    with torch.inference_mode():
        expected = segment.compute(x, valid_size)
        with literals:
            segment.compute(x, valid_size)
        with _Literal() as seen, literals:
            values = segment.compute(x, valid_size)
    assert seen.found == []
    assert all(torch.equal(value, other) for value, other in zip(values, expected, strict=True))


def test_bf16_on_the_cpu_is_near_and_fp16_is_for_gpus(folder: Path) -> None:
    bundle = Bundle.load(folder)
    frame = bundle.golden_frames(folder)[0]
    engine = open_torch_engine(folder, bundle, 0, 1, precision="bf16")
    result = engine.run(frame, ["features"])["features"]
    assert (engine.precision, result.dtype) == ("bf16", np.float32)
    assert 1e-5 < np.linalg.norm(result - frame["features"]) / np.linalg.norm(frame["features"]) < 8e-2
    with pytest.raises(EngineError, match="fp32 or bf16 on cpu, not in fp16"):
        open_torch_engine(folder, bundle, 0, 1, precision="fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_host_without_gpu_says_so(folder: Path) -> None:
    with pytest.raises(EngineError, match="torch has no device 'cuda' here") as caught:
        open_torch_engine(folder, Bundle.load(folder), 0, 1, "cuda")
    assert caught.value.exit_code == 2


class TestOnTheGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 3e-2), ("bf16", 8e-2)])
    def test_the_chain_agrees_with_the_golden_frames(self, folder: Path, precision: str, tolerance: float) -> None:
        bundle = Bundle.load(folder)
        engines = [open_torch_engine(folder, bundle, index, 1, "cuda", precision=precision) for index in range(2)]
        for frame in bundle.golden_frames(folder):
            features = engines[0].run(frame, ["features"])["features"]
            error = np.linalg.norm(features - frame["features"]) / np.linalg.norm(frame["features"])
            assert error < tolerance
            outputs = engines[1].run(
                {"features": features, "valid_size": frame["valid_size"]}, ["pred_logits", "pred_boxes"]
            )
            np.testing.assert_allclose(outputs["pred_boxes"], frame["pred_boxes"], atol=tolerance)
        assert engines[0].device_times_ms()  # type: ignore[attr-defined]

    def test_a_detr_is_captured(self, folder: Path) -> None:
        engine = open_torch_engine(folder, Bundle.load(folder), 0, 1, "cuda")
        frame = Bundle.load(folder).golden_frames(folder)[0]
        engine.run(frame, WIRES)
        assert isinstance(engine, CudaTorchEngine)
        (prepared,) = engine._prepared.values()
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph, stream=engine._computing):
            engine._call(prepared, False)

    def test_wire_forms_have_the_codecs_bytes(self, folder: Path) -> None:
        engine = open_torch_engine(folder, Bundle.load(folder), 0, 1, "cuda", precision="fp16")
        for frame in Bundle.load(folder).golden_frames(folder):
            results = engine.run(frame, WIRES)
            for wire in ("fp16", "uint8"):
                for suffix, array in encode(results["features"], wire).items():
                    assert results["features" + suffix].tobytes() == array.tobytes()
