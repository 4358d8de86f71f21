"""An engine's inputs and outputs on the device, and the copies between them and the host's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....pipeline.packet import Array
from ..cuda_kernels import CudaKernels
from ..cuda_memory import PageLocks, page_locked
from .api import Slot


class DeviceTensors:
    """A device buffer for every slot. For the thread that owns the CUDA context; copies are queued, never waited for."""

    def __init__(self, slots: Sequence[Slot], stream: Any, kernels: CudaKernels | None, locks: PageLocks) -> None:
        """Raises pycuda's MemoryError."""
        import pycuda.driver as cuda

        self._cuda = cuda
        self._stream = stream
        self._kernels = kernels
        self._locks = locks
        self.slots = {slot.name: slot for slot in slots}
        self._memory = {slot.name: cuda.mem_alloc(slot.num_bytes) for slot in slots}
        self._staging: dict[str, Array] = {}
        self._octets: dict[str, Any] = {}
        for slot in slots:
            if slot.is_input and slot.dtype == np.float32 and kernels is not None:
                self._octets[slot.name] = cuda.mem_alloc(slot.num_elements)

    @property
    def addresses(self) -> dict[str, int]:
        """Device address by name."""
        return {name: int(memory) for name, memory in self._memory.items()}

    def memory(self, name: str) -> Any:
        """The device buffer of a slot."""
        return self._memory[name]

    def new(self, num_bytes: int) -> Any:
        """One more device buffer. Raises pycuda's MemoryError."""
        return self._cuda.mem_alloc(num_bytes)

    def send(self, inputs: Mapping[str, Array]) -> None:
        """Queue the inputs' way to the device. A picture's bytes become float32 there; int64 may become int32 here.

        Raises KeyError for an input that is missing, ValueError for one of another shape.
        """
        for name, slot in self.slots.items():
            if not slot.is_input:
                continue
            array = inputs[name]
            if array.shape != slot.shape:
                raise ValueError(f"input [{name}] has the shape {array.shape} and the engine takes {slot.shape}")
            if array.dtype == np.uint8 and self._kernels is not None and name in self._octets:
                self._to_device(self._octets[name], name + " octets", array, array.dtype)
                self._kernels.widen(self._octets[name], slot.num_elements, self._memory[name])
            else:
                self._to_device(self._memory[name], name, array, slot.dtype)

    def staging(self, key: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """A page-locked array of ours, the same one for every frame."""
        if key not in self._staging:
            self._staging[key] = page_locked(shape, dtype)
        return self._staging[key]

    def fetch(self, memory: Any, key: str, shape: tuple[int, ...], dtype: Any, target: Array | None) -> Array:
        """Queue a copy to the host; returns where it will be: `target` where the GPU can write there, else staging.

        Raises ValueError for a target of another shape or dtype.
        """
        if target is not None:
            if target.shape != shape or target.dtype != dtype:
                raise ValueError(
                    f"output [{key}] has the shape {shape} in {np.dtype(dtype)} and its target is {target.shape} "
                    f"in {target.dtype}"
                )
            if self._locks.holds(target):
                self._cuda.memcpy_dtoh_async(target, memory, self._stream)
                return target
        place = self.staging(key, shape, dtype)
        self._cuda.memcpy_dtoh_async(place, memory, self._stream)
        return place

    def _to_device(self, memory: Any, key: str, array: Array, dtype: Any) -> None:
        if array.dtype != dtype or not self._locks.holds(array):
            place = self.staging(key, array.shape, dtype)
            np.copyto(place, array, casting="unsafe")
            array = place
        self._cuda.memcpy_htod_async(memory, array, self._stream)
