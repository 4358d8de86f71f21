"""An ONNX model in another precision, for engines that take the graph at its word.

fp16    every float32 tensor becomes float16 but the inputs and outputs; by ONNX Runtime's converter
int8    Q/DQ pairs around what convolutions and linear layers read: symmetric, one scale a channel of a weight, one scale a
        tensor elsewhere, by entropy over the golden frames; by ONNX Runtime's quantiser. The rest stays float32, attention
        among it, which int8 harms most.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....pipeline.errors import EngineError
from ....pipeline.packet import Array

_MISSING = "making a graph for TensorRT 11 needs onnx and onnxruntime ({}): pip install 'splitrail[tensorrt]'"
_QUANTISED_OPERATORS = ("Conv", "Gemm")
_TOO_WIDE_FOR_HALF = ["Range"]
"""ONNX Runtime's own list of operators that stay float32, and this one, which TensorRT has in float32 only."""


def half_graph(graph: bytes) -> bytes:
    """The serialised model in float16. Raises EngineError: a library is missing, or the model cannot be converted."""
    try:
        import onnx
        from onnxruntime.transformers import float16
    except ImportError as error:
        raise EngineError(_MISSING.format(error)) from error
    try:
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_TOO_WIDE_FOR_HALF]
        model: Any = float16.convert_float_to_float16(
            onnx.load_model_from_string(graph), keep_io_types=True, op_block_list=blocked
        )
        return bytes(model.SerializeToString())
    except Exception as error:
        raise EngineError(f"the graph cannot be made fp16 ({_first_line(error)}); take tensorrt:fp32") from error


def quantised_graph(graph: bytes, frames: Sequence[Mapping[str, Array]]) -> bytes:
    """The serialised model with explicit Q/DQ, calibrated on `frames` (inputs by name; float inputs may come as uint8).

    Raises EngineError: a library is missing, or the model cannot be quantised.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise EngineError(_MISSING.format(error)) from error
    model = onnx.load_model_from_string(graph)
    if not any(node.op_type in _QUANTISED_OPERATORS for node in model.graph.node):
        return graph
    kinds = {value.name: _dtype(onnx, value) for value in model.graph.input}

    class GoldenFrames(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._frames: Iterator[Mapping[str, Array]] = iter(frames)

        def get_next(self) -> dict[str, Array] | None:
            frame = next(self._frames, None)
            return None if frame is None else {name: np.asarray(frame[name], kind) for name, kind in kinds.items()}

    try:
        with tempfile.TemporaryDirectory() as folder, _silence():
            source, target = Path(folder) / "graph.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(graph)
            quantization.quantize_static(
                str(source),
                str(target),
                GoldenFrames(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED_OPERATORS),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Entropy,
                # TensorRT takes zero points of 0 only, and keeps biases in float32.
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
            return target.read_bytes()
    except Exception as error:
        raise EngineError(f"the graph cannot be made int8 ({_first_line(error)}); take tensorrt:fp16") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The quantiser prints what it does and logs advice that is followed already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _dtype(onnx: Any, value: Any) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
