"""From an ONNX model to a TensorRT plan, with progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ...bundle import GraphStage
from .api import Calibration, TensorRtApi, slot_of
from .log import Log

WORKSPACE_BYTES = 1 << 30
"""Scratch memory that a layer may ask for; a Jetson's memory is the host's too, so not all of it."""
_REPORT_S = 5.0

Progress = Callable[[str], None]


def build_plan(
    tensorrt: Any,
    api: TensorRtApi,
    log: Log,
    model: bytes,
    stage: GraphStage,
    precision: str,
    calibration: Calibration,
    progress: Progress,
) -> bytes:
    """Parse `model` and build it for the GPU of this thread's context; `progress` is told every few seconds.

    Raises EngineError in one sentence: an operator or plugin that TensorRT lacks, no memory, a precision that the GPU lacks.
    """
    log.forget()
    builder = tensorrt.Builder(log.listener)
    network = builder.create_network(api.network_flags())
    parser = tensorrt.OnnxParser(network, log.listener)
    version = f"TensorRT {tensorrt.__version__}"
    if not parser.parse(model):
        reasons = [_described(parser.get_error(index)) for index in range(parser.num_errors)]
        raise log.error(
            f"{version} cannot run {stage.graph}",
            "take another engine, or export the bundle again with another --opset (13 for TensorRT 8)",
            detail=next(iter(reasons), ""),
        )
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    else:
        config.max_workspace_size = WORKSPACE_BYTES
    inputs = tuple(
        slot_of(tensor.name, True, tensor.shape, tensor.dtype)
        for tensor in map(network.get_input, range(network.num_inputs))
    )
    calibrator = api.calibrator(calibration, inputs) if precision == "int8" else None
    api.configure(builder, config, precision, calibrator)
    with _Report(f"building {stage.name} in {precision} with {version}", progress) as report:
        if hasattr(tensorrt, "IProgressMonitor"):
            config.progress_monitor = _monitor(tensorrt, report)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error(
            f"{version} cannot build {stage.graph} in {precision}", "take another precision or another engine"
        )
    return bytes(plan)


class _Report:
    """Says every few seconds how long a build has taken and where it is, from a thread of its own."""

    def __init__(self, what: str, progress: Progress) -> None:
        self.phase = ""
        self._what = what
        self._progress = progress
        self._begin = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="build-progress", daemon=True)

    def __enter__(self) -> _Report:
        self._progress(self._what)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._progress(f"{self._what}: done after {time.monotonic() - self._begin:.0f} s")

    def _run(self) -> None:
        while not self._ended.wait(_REPORT_S):
            where = f", {self.phase}" if self.phase else ""
            self._progress(f"{self._what}: {time.monotonic() - self._begin:.0f} s{where}")


def _monitor(tensorrt: Any, report: _Report) -> Any:
    """TensorRT's own account of a build, where it has one. Called from several of its threads."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self._num_steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._num_steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            report.phase = f"{phase_name} {step + 1} of {self._num_steps.get(phase_name, step + 1)}"
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._num_steps.pop(phase_name, None)

    return Monitor()


def _described(error: Any) -> str:
    """A parser's error with the operator it is about, where the library tells it."""
    operator = getattr(error, "node_operator", None)
    text = str(error.desc())
    return f"{operator()}: {text}" if operator is not None and operator() and operator() not in text else text
