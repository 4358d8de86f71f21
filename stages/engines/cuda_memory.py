"""Page-locked host memory, from which and into which the GPU copies by itself.

The channel's send and receive buffers are made once and used again and again: they are page-locked where they lie, so that
an output goes from the GPU straight behind the message's header. Every other array (a decoded tensor, a result without a
place) is copied through a page-locked buffer of ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...pipeline.packet import Array

MAX_LOCKED = 64
"""Buffers of others that are page-locked at a time; a channel has at most 17."""


class PageLocks:
    """Page-locks the buffers that come again. For the thread that owns the CUDA context."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._locked: dict[tuple[int, int], tuple[Any, Array]] = {}
        self._is_refused = False

    def holds(self, array: Array) -> bool:
        """Whether `array` lies in page-locked memory, now that it has been seen once more.

        That is so for a view of a larger buffer, as every tensor in a message is, from its second appearance on, if the
        platform can: Jetsons older than Xavier cannot, which is asked only once.
        """
        owner = _owner(array)
        if owner.nbytes == array.nbytes:
            return False
        key = (owner.ctypes.data, owner.nbytes)
        if key in self._locked:
            return True
        if self._is_refused or len(self._locked) >= MAX_LOCKED or not array.flags.writeable:
            return False
        if key not in self._seen:
            if len(self._seen) >= MAX_LOCKED:
                self._seen.clear()
            self._seen.add(key)
            return False
        import pycuda.driver as cuda

        try:
            self._locked[key] = (cuda.register_host_memory(owner), owner)
        except cuda.Error:
            self._is_refused = True
            return False
        return True

    def close(self) -> None:
        """Unlock all of them."""
        for registered, _ in self._locked.values():
            registered.base.unregister()
        self._locked.clear()


def page_locked(shape: tuple[int, ...], dtype: Any) -> Array:
    """A new page-locked array; it is freed with its last reference."""
    import pycuda.driver as cuda

    array: Array = cuda.pagelocked_empty(shape, dtype)
    return array


def _owner(array: Array) -> Array:
    """The outermost array whose memory `array` is a view of."""
    while True:
        base = array.base.obj if isinstance(array.base, memoryview) else array.base
        if not isinstance(base, np.ndarray):
            return array
        array = base
