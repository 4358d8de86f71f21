"""Precision by builder flags, as TensorRT has it up to 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....pipeline.errors import EngineError
from ....pipeline.packet import Array
from ...bundle import GraphStage
from .api import Calibration, Slot


class FlagsApi:
    """What the generations with flags share."""

    def __init__(self, tensorrt: Any) -> None:
        self._tensorrt = tensorrt

    def graph_for(self, graph: bytes, precision: str, stage: GraphStage, calibration: Calibration) -> bytes:
        """The graph as it is: the builder lowers it."""
        return graph

    def network_flags(self) -> int:
        """Explicit batch, where that is still a choice (8 and 9)."""
        flag = getattr(self._tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        return 0 if flag is None else 1 << int(flag)

    def configure(self, builder: Any, config: Any, precision: str, calibrator: Any) -> None:
        """fp32 without TF32, whose products have 10 bits; int8 where calibrated, fp32 elsewhere: fp16 may be wrong."""
        flags = self._tensorrt.BuilderFlag
        config.clear_flag(flags.TF32)
        if precision == "fp16":
            if not builder.platform_has_fast_fp16:
                raise EngineError("this GPU has no fast fp16; take tensorrt:fp32")
            config.set_flag(flags.FP16)
        elif precision == "int8":
            if not builder.platform_has_fast_int8:
                raise EngineError("this GPU has no fast int8; take tensorrt:fp16")
            config.set_flag(flags.INT8)
            config.int8_calibrator = calibrator

    def calibrator(self, calibration: Calibration, inputs: tuple[Slot, ...]) -> Any:
        """An entropy calibrator over the golden frames."""
        return entropy_calibrator(self._tensorrt, calibration, inputs)


def entropy_calibrator(tensorrt: Any, calibration: Calibration, inputs: Sequence[Slot]) -> Any:
    """TensorRT's `IInt8EntropyCalibrator2` fed with the golden frames, one a batch, from device memory of its own."""
    import pycuda.driver as cuda

    class GoldenFrames(tensorrt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IInt8EntropyCalibrator2.__init__(self)
            self._frames = iter(calibration.frames)
            self._slots = {slot.name: slot for slot in inputs}
            self._memory = {slot.name: cuda.mem_alloc(slot.num_bytes) for slot in inputs}

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            frame: Mapping[str, Array] | None = next(self._frames, None)
            if frame is None:
                return None
            for name in names:
                array = np.ascontiguousarray(frame[name], self._slots[name].dtype)
                cuda.memcpy_htod(self._memory[name], array)
            return [int(self._memory[name]) for name in names]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: object) -> None:
            """The engine itself is kept, so the ranges need not be."""

    return GoldenFrames()
