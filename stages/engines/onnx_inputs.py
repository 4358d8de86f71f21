"""Make uint8 inputs of an ONNX graph float32 ones, without the `onnx` package.

TensorRT reads bytes only since 8.5, and half-heartedly; our graphs begin with a cast to float32, which changes nothing for
values that already are. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Collection

from .protobuf import VARINT, fields, length_field, varint_bytes

_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_VALUE_INFO = 11, 13
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT = 1
_FLOAT = 1

_Parts = list[memoryview | bytes]


def float_inputs(model: bytes, names: Collection[str]) -> bytes:
    """The serialised model with the named inputs in float32; what it says of the types in between is left out."""
    parts: _Parts = []
    for number, value, whole in fields(memoryview(model)):
        parts += length_field(_MODEL_GRAPH, _graph(value, names)) if number == _MODEL_GRAPH else [whole]
    return b"".join(parts)


def _graph(graph: memoryview, names: Collection[str]) -> _Parts:
    parts: _Parts = []
    for number, value, whole in fields(graph):
        if number == _GRAPH_INPUT and _name(value) in names:
            parts += length_field(number, _value_info(value))
        elif number != _GRAPH_VALUE_INFO:
            parts.append(whole)
    return parts


def _value_info(value_info: memoryview) -> _Parts:
    parts: _Parts = []
    for number, value, whole in fields(value_info):
        parts += length_field(number, _type(value)) if number == _VALUE_TYPE else [whole]
    return parts


def _type(kind: memoryview) -> _Parts:
    parts: _Parts = []
    for number, value, whole in fields(kind):
        parts += length_field(number, _tensor(value)) if number == _TYPE_TENSOR else [whole]
    return parts


def _tensor(tensor: memoryview) -> _Parts:
    others: _Parts = [whole for number, _, whole in fields(tensor) if number != _TENSOR_ELEMENT]
    return [varint_bytes(_TENSOR_ELEMENT << 3 | VARINT), varint_bytes(_FLOAT), *others]


def _name(value_info: memoryview) -> str:
    return next((str(value, "utf-8") for number, value, _ in fields(value_info) if number == _VALUE_NAME), "")
