"""Recorded: every call goes into `CALLS`. Strict where CUDA is: the context belongs to one thread, asynchronous copies
want page-locked memory, and nothing that is queued on a stream happens before somebody waits for it.

`FAKE_GPU` in the environment makes trouble, any of: no device, no memory, no nvcc, no register.
"""

import os
import threading

import numpy as np

CALLS = []
_state = threading.local()
_locked = {}
_streams = {}


class Error(Exception):
    pass


class LogicError(Error):
    pass


class RuntimeError(Error):
    pass


class MemoryError(Error):
    pass


class CompileError(Error):
    pass


for _kind in (Error, LogicError, RuntimeError, MemoryError, CompileError):
    _kind.__module__ = "pycuda._driver"


class ctx_flags:
    SCHED_AUTO, SCHED_SPIN, SCHED_YIELD, SCHED_BLOCKING_SYNC = 0, 1, 2, 4


def trouble():
    return os.environ.get("FAKE_GPU", "")


def check_thread():
    if getattr(_state, "context", None) is None:
        raise LogicError("context failed: invalid device context - no currently active context?")


def described(arg):
    return f"device[{arg.size}]" if isinstance(arg, DeviceAllocation) else f"{arg.dtype}({arg})"


def init(flags=0):
    CALLS.append(("init",))
    if "no device" in trouble():
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")


class Device:
    def __init__(self, number):
        if number >= 2:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    @staticmethod
    def count():
        return 2

    def name(self):
        return os.environ.get("FAKE_GPU_NAME", "Orin (fake)")

    def compute_capability(self):
        return (8, 7)

    def make_context(self, flags=ctx_flags.SCHED_AUTO):
        CALLS.append(("make_context", flags, threading.current_thread().name))
        _state.context = Context()
        return _state.context


class Context:
    def pop(self):
        check_thread()
        _state.context = None

    def detach(self):
        CALLS.append(("detach",))


class Stream:
    def __init__(self, flags=0):
        check_thread()
        self._waiting = []
        _streams[id(self)] = self

    @property
    def handle(self):
        return id(self)

    def queue(self, work):
        self._waiting.append(work)

    def synchronize(self):
        check_thread()
        CALLS.append(("synchronize",))
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()


def stream_at(handle):
    """The stream that somebody was given the handle of."""
    return _streams[handle]


class DeviceAllocation:
    def __init__(self, size):
        self.size = size
        self._memory = np.full(size, 0xAA, np.uint8)

    def __int__(self):
        return self._memory.ctypes.data

    def __index__(self):
        return int(self)

    def free(self):
        self._memory = None


def mem_alloc(size):
    check_thread()
    CALLS.append(("mem_alloc", size))
    if "no memory" in trouble() and size > 1000:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(size)


def bytes_at(address, size):
    import ctypes

    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_uint8)), (int(size),))


class _Registered:
    def __init__(self, array):
        self._key = (array.ctypes.data, array.nbytes)
        _locked[self._key] = array

    def unregister(self):
        CALLS.append(("unregister", self._key[1]))
        del _locked[self._key]


class _Locked(np.ndarray):
    """An array whose `base` is what page-locked it."""

    @property
    def base(self):
        return self._registered


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    check_thread()
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = 0xBB
    CALLS.append(("pagelocked_empty", tuple(array.shape), str(array.dtype)))
    _locked[array.ctypes.data, array.nbytes] = array
    return array


def register_host_memory(ary, flags=0):
    check_thread()
    CALLS.append(("register_host_memory", ary.nbytes))
    if "no register" in trouble():
        raise LogicError("cuMemHostRegister failed: operation not supported")
    locked = ary.view(_Locked)
    locked._registered = _Registered(ary)
    return locked


def _check_locked(array):
    begin, end = array.ctypes.data, array.ctypes.data + array.nbytes
    assert array.flags.c_contiguous
    assert any(b <= begin and end <= b + size for b, size in _locked), "an asynchronous copy of pageable memory"


def memcpy_htod(dest, src):
    check_thread()
    CALLS.append(("memcpy_htod", src.nbytes, str(src.dtype)))
    bytes_at(dest, src.nbytes)[:] = src.reshape(-1).view(np.uint8)


def memcpy_htod_async(dest, src, stream=None):
    check_thread()
    _check_locked(src)
    CALLS.append(("memcpy_htod_async", src.nbytes, str(src.dtype)))
    assert src.nbytes <= dest.size
    stream.queue(lambda: np.copyto(bytes_at(dest, src.nbytes), src.reshape(-1).view(np.uint8)))


def memcpy_dtoh_async(dest, src, stream=None):
    check_thread()
    _check_locked(dest)
    CALLS.append(("memcpy_dtoh_async", dest.nbytes, str(dest.dtype)))
    assert dest.nbytes <= src.size
    stream.queue(lambda: np.copyto(dest.reshape(-1).view(np.uint8), bytes_at(src, dest.nbytes)))


def memset_d32_async(dest, data, size, stream=None):
    check_thread()
    CALLS.append(("memset_d32_async", data, size))
    stream.queue(lambda: bytes_at(dest, 4 * size).view(np.uint32).fill(data))
