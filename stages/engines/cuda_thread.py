"""One thread of this process owns the CUDA context; every call of pycuda and TensorRT is made there.

A CUDA context belongs to the thread that made it, while engines are opened by a rank's main thread and used by its lanes.
So they hand their work to this one and wait; the interpreter lock is free meanwhile. The wait itself sleeps (blocking
synchronisation) instead of spinning, because the communication thread wants the core.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

from ...pipeline.errors import EngineError

Result = TypeVar("Result")
_INSTALL = "pip install 'splitrail[tensorrt]'"


class CudaThread:
    """A context on one GPU and the thread it lives in. Shared by all engines of the process: `acquire`, then `release`."""

    _lock = threading.Lock()
    _threads: ClassVar[dict[int, CudaThread]] = {}

    def __init__(self, ordinal: int) -> None:
        """Use `acquire`. Raises EngineError: no pycuda, or no such GPU."""
        self.ordinal = ordinal
        self.stream: Any = None
        """The one stream on which everything is queued; for the thread itself."""
        self.device_name = ""
        self.capability = (0, 0)
        self._context: Any = None
        self._num_users = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"cuda{ordinal}")
        try:
            self.call(self._open)
        except BaseException:
            self._executor.shutdown()
            raise

    @staticmethod
    def acquire(ordinal: int) -> CudaThread:
        """The thread of a GPU, made when there is none. Raises EngineError."""
        with CudaThread._lock:
            thread = CudaThread._threads.get(ordinal)
            if thread is None:
                thread = CudaThread._threads[ordinal] = CudaThread(ordinal)
            thread._num_users += 1
            return thread

    def release(self) -> None:
        """One user less; the last one ends the context and the thread."""
        with CudaThread._lock:
            self._num_users -= 1
            if self._num_users == 0:
                del CudaThread._threads[self.ordinal]
                try:
                    self.call(self._close)
                finally:
                    self._executor.shutdown()

    def call(self, work: Callable[[], Result]) -> Result:
        """Do `work` in the thread and return what it returns. CUDA's errors come as EngineError."""
        return self._executor.submit(_translated, work).result()

    def _open(self) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            if "libcuda" in str(error):
                raise EngineError(
                    f"this host has no CUDA driver ({error}); take another engine, or run on a host with an NVIDIA GPU"
                ) from error
            raise EngineError(f"TensorRT engines need pycuda ({error}): {_INSTALL}") from error
        try:
            cuda.init()
            device = cuda.Device(self.ordinal)
            self._context = device.make_context(cuda.ctx_flags.SCHED_BLOCKING_SYNC)
        except cuda.Error as error:
            raise EngineError(
                f"there is no GPU {self.ordinal} to run on ({error}); take another engine or another --device"
            ) from error
        self.device_name = str(device.name())
        self.capability = tuple(device.compute_capability())
        self.stream = cuda.Stream()

    def _close(self) -> None:
        self.stream = None
        self._context.pop()
        self._context.detach()


def _translated(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except EngineError:
        raise
    except Exception as error:
        kinds = {kind.__module__.partition(".")[0] + "." + kind.__name__ for kind in type(error).__mro__}
        text = str(error).strip().partition("\n")[0]
        if "pycuda.MemoryError" in kinds:
            raise EngineError(
                f"the GPU's memory is full ({text}); end what else uses it, or take fp16 or a smaller size"
            ) from error
        if "pycuda.Error" in kinds:
            raise EngineError(f"CUDA failed: {text}") from error
        raise
