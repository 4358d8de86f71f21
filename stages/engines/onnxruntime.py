"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...pipeline.errors import EngineError
from ...pipeline.packet import Array
from ..bundle import Bundle, GraphStage
from .onnx_outputs import keep_outputs
from .trim import trim_heap

_LOG_FATAL = 4


class OnnxRuntimeEngine:
    """One graph in fp32 on exactly `threads` threads, the calling one included.

    The threads sleep between frames instead of spinning: ranks share cores, and spinning cost 2.4 times the CPU time of
    a run without making it faster (measured, 2 threads on 2 cores). Inputs are read where they lie and targets written in
    place, at any byte offset.
    """

    name = "onnxruntime"

    def __init__(
        self,
        graph: Path,
        stage: GraphStage,
        threads: int,
        precision: str = "fp32",
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Load `graph` with `outputs` only (default all of the stage's).

        Raises EngineError: ONNX Runtime is missing, the precision is not fp32, or it refuses the graph.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                "the engine onnxruntime is not installed: pip install 'splitrail[onnxruntime]'"
            ) from error
        if precision != "fp32":
            raise EngineError(f"onnxruntime runs graphs in fp32, not in {precision}: ask for onnxruntime:fp32")
        self.precision = precision
        self._graph = graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What it has to say comes as exceptions, which are translated here.
        options.log_severity_level = _LOG_FATAL
        offered = {tensor.name for tensor in stage.outputs}
        try:
            if outputs is None or set(outputs) == offered:
                self._session: Any = onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
            else:
                # From a file, because a session made from bytes keeps them as long as it lives.
                with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
                    file.write(keep_outputs(graph.read_bytes(), outputs))
                    file.flush()
                    self._session = onnxruntime.InferenceSession(file.name, options, ["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"onnxruntime refuses {graph}: {_first_line(error)}") from error
        trim_heap()

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See `Engine.run`. Raises EngineError with the graph's name."""
        targets = targets or {}
        binding = self._session.io_binding()
        try:
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for name in outputs:
                target = targets.get(name)
                if target is None:
                    binding.bind_output(name)
                else:
                    binding.bind_output(name, "cpu", 0, target.dtype.type, target.shape, target.ctypes.data)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"onnxruntime failed on {self._graph}: {_first_line(error)}") from error
        results = binding.get_outputs()
        return {
            name: targets[name] if name in targets else np.asarray(value.numpy())
            for name, value in zip(outputs, results, strict=True)
        }

    def close(self) -> None:
        """Free the graph."""
        self._session = None


def open_engine(
    folder: Path,
    bundle: Bundle,
    stage_index: int,
    *,
    outputs: Sequence[str],
    threads: int,
    precision: str,
    device: str = "cpu",
) -> OnnxRuntimeEngine:
    """The opener of this engine (`registry.py`). Raises EngineError, also for another device than the CPU."""
    if device != "cpu":
        raise EngineError(
            f"onnxruntime runs on the CPU here, not on [{device}]: take another engine, or the device cpu"
        )
    stage = bundle.stages[stage_index]
    return OnnxRuntimeEngine(folder / stage.graph, stage, threads, precision, outputs)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
