"""TensorRT from 11 on: every network is strongly typed, so that the precision must be in the graph."""

from __future__ import annotations

from typing import Any

from ...bundle import GraphStage
from .api import Calibration, Slot
from .tensors import TensorsApi


class StronglyTypedApi(TensorsApi):
    """No flags and no calibrators: fp16 casts and int8's Q/DQ pairs are written into the ONNX model before it is parsed."""

    def __init__(self, tensorrt: Any) -> None:
        self._tensorrt = tensorrt

    def graph_for(self, graph: bytes, precision: str, stage: GraphStage, calibration: Calibration) -> bytes:
        """The model in that precision, its inputs and outputs still float32. Raises EngineError: onnx is missing."""
        if precision == "fp32":
            return graph
        from .lowered import half_graph, quantised_graph

        return half_graph(graph) if precision == "fp16" else quantised_graph(graph, calibration.frames)

    def network_flags(self) -> int:
        """None are left to choose."""
        return 0

    def configure(self, builder: Any, config: Any, precision: str, calibrator: Any) -> None:
        """fp32 without TF32, whose products have 10 bits."""
        config.clear_flag(self._tensorrt.BuilderFlag.TF32)

    def calibrator(self, calibration: Calibration, inputs: tuple[Slot, ...]) -> Any:
        """None: the ranges are in the graph."""
        return None
