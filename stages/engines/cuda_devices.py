"""The CUDA devices of this host as the driver itself tells them: no pycuda, no torch, no nvidia-smi, which a Jetson lacks."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass

DRIVER = "libcuda.so.1"
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
"""Numbers of `CUdevice_attribute` in cuda.h."""


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU."""

    name: str
    capability: tuple[int, int]
    """Compute capability: (6, 2) is a TX2, (8, 7) an Orin."""
    memory_bytes: int
    shares_memory: bool
    """Whether its memory is the host's (every Jetson): then nothing crosses a bus."""


class NoCudaError(Exception):
    """This host has no usable GPU; the text is the reason, one clause."""


def cuda_devices(driver: str = DRIVER) -> list[CudaDevice]:
    """The devices in the driver's order, at least one. `driver` is the library's name or path. Raises NoCudaError."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        raise NoCudaError("no CUDA driver (libcuda.so.1) on this host") from error
    number = ctypes.c_int()
    _check(cuda, cuda.cuInit(0))
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(number)))
    if number.value == 0:
        raise NoCudaError("the CUDA driver finds no GPU")
    return [_device(cuda, ordinal) for ordinal in range(number.value)]


def why_no_tensorrt() -> str:
    """What this host lacks for TensorRT engines beside TensorRT itself, one clause with the remedy; empty for nothing."""
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: pip install 'splitrail[tensorrt]'"
    try:
        cuda_devices()
    except NoCudaError as error:
        return f"{error}; take another engine"
    return ""


def _device(cuda: ctypes.CDLL, ordinal: int) -> CudaDevice:
    handle = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(handle), ordinal))
    name = ctypes.create_string_buffer(256)
    _check(cuda, cuda.cuDeviceGetName(name, len(name), handle))
    memory = ctypes.c_size_t()
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle))
    attributes = []
    for attribute in (_MAJOR, _MINOR, _INTEGRATED):
        value = ctypes.c_int()
        _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle))
        attributes.append(value.value)
    major, minor, integrated = attributes
    return CudaDevice(name.value.decode(errors="replace"), (major, minor), memory.value, bool(integrated))


def _check(cuda: ctypes.CDLL, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        raise NoCudaError(f"the CUDA driver answers: {(text.value or b'').decode() or f'error {code}'}")
