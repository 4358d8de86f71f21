"""OpenVINO on the CPU: the fastest engine on x86, in fp32 or bf16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...pipeline.errors import EngineError
from ...pipeline.packet import Array
from ..bundle import Bundle, GraphStage
from .trim import trim_heap

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """One graph in fp32 or bf16 on `threads` threads.

    The precision is always asked for, because by default OpenVINO takes bf16 where the CPU has it. Threads are not pinned:
    ranks that share a host would be pinned to the same cores. Inputs are read where they lie and targets written in place.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Path,
        stage: GraphStage,
        threads: int,
        precision: str = "fp32",
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Load `graph` with `outputs` only (default all of the stage's).

        Raises EngineError: OpenVINO is missing, the CPU has no such precision, or it refuses the graph.
        """
        try:
            import openvino
        except ImportError as error:
            raise EngineError("the engine openvino is not installed: pip install 'splitrail[openvino]'") from error
        hint = _HINTS.get(precision)
        if hint is None:
            raise EngineError(f"openvino runs graphs in {' or '.join(_HINTS)}, not in {precision}")
        self.precision = precision
        self._graph = graph
        self._openvino: Any = openvino
        wanted = list(outputs if outputs is not None else (tensor.name for tensor in stage.outputs))
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this CPU has no bf16 of its own: ask for openvino:fp32")
        try:
            model = core.read_model(graph)
            # All results of a model are computed, whoever reads them: so a model of the wanted ones only.
            results = [model.output(name).get_node().input_value(0) for name in wanted]
            compiled = core.compile_model(
                openvino.Model(results, model.get_parameters(), graph.stem),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": hint,
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "ENABLE_CPU_PINNING": False,
                    "ENABLE_HYPER_THREADING": True,
                },
            )
            self._request: Any = compiled.create_infer_request()
        except Exception as error:
            raise EngineError(f"openvino refuses {graph}: {_last_line(error)}") from error
        del model, results
        trim_heap()
        self._inputs = {name: port for port in compiled.inputs for name in port.get_names()}
        self._outputs = dict(zip(wanted, compiled.outputs, strict=True))

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See `Engine.run`. Raises EngineError with the graph's name."""
        targets = targets or {}
        # OpenVINO shares writeable memory only, and keeps nothing alive that it shares: these names do.
        sources = {name: np.require(array, requirements=["C", "W"]) for name, array in inputs.items()}
        tensors: dict[str, Any] = {}
        try:
            for name, array in sources.items():
                self._request.set_tensor(self._inputs[name], self._openvino.Tensor(array, shared_memory=True))
            # Every output is bound anew for every frame: its last tensor may be in somebody's hands by now.
            for name, port in self._outputs.items():
                shape = port.get_partial_shape()
                if name in targets and shape.is_static:
                    tensors[name] = self._openvino.Tensor(targets[name], shared_memory=True)
                else:
                    # A shape that varies gets its size from the run. It is never bound to a target: OpenVINO writes
                    # nothing at all, without an error, into one that is too small.
                    sizes = shape.to_shape() if shape.is_static else [0] * len(shape)
                    tensors[name] = self._openvino.Tensor(port.get_element_type(), sizes)
                self._request.set_tensor(port, tensors[name])
            self._request.infer()
            return {name: _placed(tensors[name].data, targets.get(name)) for name in outputs}
        except KeyError as error:
            raise EngineError(f"{self._graph} was not loaded with tensor [{error.args[0]}]") from error
        except Exception as error:
            raise EngineError(f"openvino failed on {self._graph}: {_last_line(error)}") from error

    def close(self) -> None:
        """Free the graph."""
        self._request = None


def open_engine(
    folder: Path,
    bundle: Bundle,
    stage_index: int,
    *,
    outputs: Sequence[str],
    threads: int,
    precision: str,
    device: str = "cpu",
) -> OpenVinoEngine:
    """The opener of this engine (`registry.py`). Raises EngineError, also for another device than the CPU."""
    if device != "cpu":
        raise EngineError(f"openvino runs on the CPU here, not on [{device}]: take another engine, or the device cpu")
    stage = bundle.stages[stage_index]
    return OpenVinoEngine(folder / stage.graph, stage, threads, precision, outputs)


def _placed(result: Array, target: Array | None) -> Array:
    """The target with the result in it, be it bound or not; without one, the result."""
    if target is None:
        return result
    if result.shape != target.shape or result.dtype != target.dtype:
        raise ValueError(f"an output of shape {result.shape} does not fit its target of shape {target.shape}")
    if not np.may_share_memory(result, target):
        np.copyto(target, result)
    return target


def _last_line(error: Exception) -> str:
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
