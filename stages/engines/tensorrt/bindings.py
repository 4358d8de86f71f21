"""TensorRT up to 8.4: tensors are numbered bindings (https://docs.nvidia.com/deeplearning/tensorrt/archives/)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .api import Slot, slot_of
from .flags import FlagsApi


class BindingsApi(FlagsApi):
    """Addresses go in as one list in the order of the bindings, with every frame."""

    _addresses: list[int]

    def slots(self, engine: Any) -> tuple[Slot, ...]:
        """See `TensorRtApi.slots`."""
        return tuple(
            slot_of(
                engine.get_binding_name(index),
                engine.binding_is_input(index),
                engine.get_binding_shape(index),
                engine.get_binding_dtype(index),
            )
            for index in range(engine.num_bindings)
        )

    def bind(self, context: Any, slots: tuple[Slot, ...], addresses: Mapping[str, int]) -> None:
        """See `TensorRtApi.bind`."""
        self._addresses = [addresses[slot.name] for slot in slots]

    def enqueue(self, context: Any, stream_handle: int) -> bool:
        """See `TensorRtApi.enqueue`."""
        return bool(context.execute_async_v2(bindings=self._addresses, stream_handle=stream_handle))
