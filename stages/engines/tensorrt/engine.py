"""TensorRT: the engine of NVIDIA's GPUs, the Jetsons above all."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....pipeline.errors import EngineError
from ....pipeline.packet import Array
from ...bundle import Bundle, GraphStage, GraphTensor
from ...cache import cache_folder
from ..cuda_kernels import CudaKernels
from ..cuda_memory import PageLocks
from ..cuda_thread import CudaThread
from ..onnx_inputs import float_inputs
from ..onnx_outputs import keep_outputs
from ..progress import say
from .api import Calibration, TensorRtApi, choose_api
from .build import build_plan
from .cache import EngineCache, EngineKey
from .device_tensors import DeviceTensors
from .log import Log
from .wire_outputs import WireOutputs, float_outputs

PRECISIONS = ("fp32", "fp16", "int8")
_OLDEST = 8
_INSTALL = "on a Jetson JetPack brings it, elsewhere pip install 'splitrail[tensorrt]'"


class TensorRtEngine:
    """One graph on one GPU.

    The graph itself is built for float32 outputs only; the half floats and bytes of the wire are made from them by
    kernels (`cuda_kernels.py`), or by `codec.py` where there is no nvcc, so that their bytes are the codec's whatever the
    precision of the graph. All CUDA calls happen in the one thread that owns the context.
    """

    name = "tensorrt"

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        stage_index: int,
        outputs: Sequence[str],
        precision: str,
        ordinal: int = 0,
        cache: Path | None = None,
    ) -> None:
        """Take the engine from `cache` (default: the user's), or build it, which takes up to an hour on a Jetson.

        Raises EngineError: TensorRT or pycuda is missing, there is no such GPU, the graph is of variable size or has an
        operator that TensorRT lacks, the GPU lacks the precision or the memory, or a cached engine is another one's.
        """
        self.precision = precision
        self._stage = bundle.stages[stage_index]
        self._graph = folder / self._stage.graph
        self._locks = PageLocks()
        tensorrt = _library()
        _check(self._stage, self._graph, precision)
        self._thread = CudaThread.acquire(ordinal)
        try:
            self._thread.call(lambda: self._open(tensorrt, folder, bundle, outputs, cache))
        except BaseException:
            self.close()
            raise

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See `Engine.run`. Raises EngineError with the graph's name."""
        return self._thread.call(lambda: self._run(inputs, outputs, targets or {}))

    def close(self) -> None:
        """Free the graph; the last engine of the process ends the CUDA context."""
        try:
            self._thread.call(self._free)
        finally:
            self._thread.release()

    def _open(self, tensorrt: Any, folder: Path, bundle: Bundle, outputs: Sequence[str], cache: Path | None) -> None:
        api = choose_api(tensorrt)
        self._api = api
        self._log = Log.of(tensorrt)
        tensorrt.init_libnvinfer_plugins(self._log.listener, "")
        wanted = float_outputs(self._stage, outputs)
        plan = self._plan(tensorrt, api, folder, bundle, wanted, cache)
        self._log.forget()
        # Both are kept: an engine must not outlive its runtime.
        self._runtime = tensorrt.Runtime(self._log.listener)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refusal(tensorrt)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._log.error(f"TensorRT cannot run {self._graph}", "take another engine")
        slots = api.slots(self._engine)
        try:
            kernels: CudaKernels | None = CudaKernels(self._thread.stream)
        except EngineError as error:
            say(f"{error}; the wire's bytes are made on the CPU meanwhile")
            kernels = None
        self._tensors = DeviceTensors(slots, self._thread.stream, kernels, self._locks)
        self._wires = WireOutputs(self._stage, self._tensors, kernels)
        api.bind(self._context, slots, self._tensors.addresses)

    def _plan(
        self,
        tensorrt: Any,
        api: TensorRtApi,
        folder: Path,
        bundle: Bundle,
        outputs: Sequence[str],
        cache: Path | None,
    ) -> bytes:
        """The built engine: from the cache, or from a build."""
        try:
            model = float_inputs(keep_outputs(self._graph.read_bytes(), outputs), ("pixels",))
        except (OSError, ValueError) as error:
            raise EngineError(f"tensorrt refuses {self._graph}: {error}") from error
        major, minor = self._thread.capability
        key = EngineKey(
            onnx_sha256=hashlib.sha256(model).hexdigest(),
            tensorrt=str(tensorrt.__version__),
            gpu=self._thread.device_name,
            capability=f"{major}.{minor}",
            precision=self.precision,
            shapes={tensor.name: tensor.shape for tensor in self._stage.inputs},
            calibration_sha256=bundle.golden_sha256 if self.precision == "int8" else "",
        )
        kept = EngineCache(cache or cache_folder() / "tensorrt")
        self._kept_at = kept.path(self._stage.name, key)
        with kept.turn(self._stage.name, key):
            plan = kept.load(self._stage.name, key)
            if plan is None:
                names = [tensor.name for tensor in self._stage.inputs]
                frames = bundle.golden_frames(folder) if self.precision == "int8" else []
                calibration = Calibration(tuple({name: frame[name] for name in names} for frame in frames))
                model = api.graph_for(model, self.precision, self._stage, calibration)
                plan = build_plan(tensorrt, api, self._log, model, self._stage, self.precision, calibration, say)
                kept.keep(self._stage.name, key, plan)
        return plan

    def _refusal(self, tensorrt: Any) -> EngineError:
        remedy = "delete that file, and it is built again"
        if self._log.is_about_version:
            return self._log.error(
                f"the cached engine {self._kept_at} is not one for TensorRT {tensorrt.__version__} on this GPU", remedy
            )
        return self._log.error(f"TensorRT {tensorrt.__version__} does not load the engine {self._kept_at}", remedy)

    def _run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array]
    ) -> dict[str, Array]:
        self._log.forget()
        try:
            self._tensors.send(inputs)
            if not self._api.enqueue(self._context, self._thread.stream.handle):
                raise self._log.error(f"tensorrt failed on {self._graph}", "take another engine")
            fetched = self._wires.fetch(outputs, targets)
            self._thread.stream.synchronize()
            return fetched()
        except (KeyError, ValueError) as error:
            raise EngineError(f"tensorrt failed on {self._graph}: {error}") from error

    def _free(self) -> None:
        self._locks.close()
        # In this order, and in this thread: each needs the one after it to be freed. After a failure some are not there.
        for name in ("_wires", "_tensors", "_context", "_engine", "_runtime"):
            self.__dict__.pop(name, None)


def open_engine(
    folder: Path,
    bundle: Bundle,
    stage_index: int,
    *,
    outputs: Sequence[str],
    threads: int,
    precision: str,
    device: str = "cpu",
) -> TensorRtEngine:
    """The opener of this engine (`registry.py`). `device` is "cuda:N" for another GPU than the first; `threads` is not for it.

    Raises EngineError.
    """
    return TensorRtEngine(folder, bundle, stage_index, outputs, precision, _ordinal(device))


def _library() -> Any:
    try:
        tensorrt: Any = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise EngineError(f"the engine tensorrt is not installed ({error}): {_INSTALL}") from error
    if int(str(tensorrt.__version__).partition(".")[0]) < _OLDEST:
        raise EngineError(f"TensorRT {tensorrt.__version__} is too old; install {_OLDEST}.0 or newer: {_INSTALL}")
    return tensorrt


def _check(stage: GraphStage, graph: Path, precision: str) -> None:
    if precision not in PRECISIONS:
        raise EngineError(f"tensorrt runs graphs in {', '.join(PRECISIONS)}, not in {precision}")
    if _varies(stage.inputs):
        raise EngineError(
            f"tensorrt runs graphs of one size only and {graph} takes any; export the bundle again with --size, "
            f"for instance --size 480x640"
        )
    if _varies(stage.outputs):
        raise EngineError(
            f"tensorrt runs graphs whose outputs have one size and those of {graph} vary by frame; take another engine"
        )


def _varies(tensors: Sequence[GraphTensor]) -> bool:
    return any(isinstance(size, str) for tensor in tensors for size in tensor.shape)


def _ordinal(device: str) -> int:
    kind, _, number = device.partition(":")
    if kind in ("cpu", "auto", "cuda") and (number.isdigit() or not number):
        return int(number or 0)
    raise EngineError(f"tensorrt has no device [{device}]; take cuda, or cuda:1 for the second GPU")
