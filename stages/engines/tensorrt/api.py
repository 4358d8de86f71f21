"""What the three API generations of TensorRT do differently, and which of them this host has.

    BindingsApi          up to 8.4   numbered bindings, execute_async_v2, precision by builder flags     TX2: 8.2
    NamedTensorsApi      8.5 to 10   named tensors, execute_async_v3, precision by builder flags         Orin: 10.3
    StronglyTypedApi     from 11 on  named tensors, execute_async_v3, precision is in the graph itself   not on a Jetson

Chosen by what the library has, not by its number: releases between them have parts of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ....pipeline.packet import Array
from ...bundle import GraphStage

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}
"""TensorRT's own `nptype` fails with NumPy 1.24 and newer up to 8.5."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or output of a built engine."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def num_elements(self) -> int:
        """How many values."""
        return int(np.prod(self.shape))

    @property
    def num_bytes(self) -> int:
        """Size of its buffer."""
        return self.num_elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Calibration:
    """What int8 is measured on: the bundle's golden frames as inputs of one graph."""

    frames: tuple[Mapping[str, Array], ...]
    """Input name -> array in the graph's own dtype, `pixels` uint8; one mapping a frame."""


class TensorRtApi(Protocol):
    """One generation. All methods are called in the thread that owns the CUDA context."""

    def graph_for(self, graph: bytes, precision: str, stage: GraphStage, calibration: Calibration) -> bytes:
        """The ONNX model to build from, for `precision`. Raises EngineError."""

    def network_flags(self) -> int:
        """What `create_network` is called with."""

    def configure(self, builder: Any, config: Any, precision: str, calibrator: Any) -> None:
        """Ask the builder for `precision`. `calibrator` is for int8. Raises EngineError: this GPU has none."""

    def calibrator(self, calibration: Calibration, inputs: tuple[Slot, ...]) -> Any:
        """What measures the ranges for int8 while the engine is built; None where the graph says them."""

    def slots(self, engine: Any) -> tuple[Slot, ...]:
        """Inputs and outputs, in the engine's order."""

    def bind(self, context: Any, slots: tuple[Slot, ...], addresses: Mapping[str, int]) -> None:
        """Where the tensors lie on the device, by name; once, before the first `enqueue`."""

    def enqueue(self, context: Any, stream_handle: int) -> bool:
        """Queue the graph on a stream. False: TensorRT has logged why not."""


def choose_api(tensorrt: Any) -> TensorRtApi:
    """The adapter for the library."""
    if not hasattr(tensorrt.ICudaEngine, "num_io_tensors"):
        from .bindings import BindingsApi

        return BindingsApi(tensorrt)
    if hasattr(tensorrt.BuilderFlag, "FP16"):
        from .named import NamedTensorsApi

        return NamedTensorsApi(tensorrt)
    from .typed import StronglyTypedApi

    return StronglyTypedApi(tensorrt)


def slot_of(name: str, is_input: bool, shape: Any, dtype: Any) -> Slot:
    """From what TensorRT tells of a tensor; `dtype` is a `tensorrt.DataType`."""
    return Slot(name, is_input, tuple(int(size) for size in shape), np.dtype(_DTYPES[dtype.name]))
