"""Tensors by name, as TensorRT has them from 8.5 on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....pipeline.errors import EngineError
from .api import Slot, slot_of


class TensorsApi:
    """What the generations with named tensors share."""

    _tensorrt: Any

    def slots(self, engine: Any) -> tuple[Slot, ...]:
        """See `TensorRtApi.slots`."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(
            slot_of(
                name,
                engine.get_tensor_mode(name) == self._tensorrt.TensorIOMode.INPUT,
                engine.get_tensor_shape(name),
                engine.get_tensor_dtype(name),
            )
            for name in names
        )

    def bind(self, context: Any, slots: tuple[Slot, ...], addresses: Mapping[str, int]) -> None:
        """See `TensorRtApi.bind`. The context keeps the addresses. Raises EngineError: it does not take one."""
        for slot in slots:
            if not context.set_tensor_address(slot.name, addresses[slot.name]):
                raise EngineError(f"TensorRT does not take a buffer for [{slot.name}]; export the bundle again")

    def enqueue(self, context: Any, stream_handle: int) -> bool:
        """See `TensorRtApi.enqueue`."""
        return bool(context.execute_async_v3(stream_handle))
