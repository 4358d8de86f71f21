"""The wire's arithmetic on the GPU, for engines that cannot write half floats or bytes: the bytes are those of `codec.py`.

uint8 takes two launches, because the range must be known before the first code:

    memset   keys[0..1] = key(0)              the range contains 0
    range    every thread: its own lowest and highest value, then one atomic minimum and one maximum
    quantise every thread: scale, inverse and zero point from the two keys, then its own values

A key is the float32's bits as an unsigned integer of the same order, so that integer atomics find the range; a value that
is not finite makes the key of a NaN, hence a scale that the receiver refuses. Each operation is the IEEE one that NumPy
does, in the same order, spelled as an intrinsic so that nothing is fused; there are no other roundings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...pipeline.errors import EngineError

SOURCE = r"""
__device__ unsigned key_of(float x) {
    unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float value_of(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__global__ void range(const float *x, long long n, unsigned *keys) {
    float low = 0.0f, high = 0.0f;
    bool finite = true;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float value = x[i];
        finite = finite && (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
    atomicMin(keys, key_of(low));
    atomicMax(keys + 1, finite ? key_of(high) : 0xffffffffu);
}

__global__ void quantise(const float *x, long long n, const unsigned *keys,
                         unsigned char *codes, float *scale_out, unsigned char *zero_point_out) {
    float low = value_of(keys[0]), high = value_of(keys[1]);
    float scale = __fmul_rn(__fsub_rn(high, low), PER_CODE);
    if (scale < SMALLEST_SCALE) scale = 1.0f;
    float inverse = __fdiv_rn(1.0f, scale);
    float zero_point = fminf(fmaxf(rintf(__fmul_rn(-low, inverse)), 0.0f), 255.0f);
    long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (first == 0) {
        *scale_out = scale;
        *zero_point_out = (unsigned char)zero_point;
    }
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = first; i < n; i += step) {
        float code = __fadd_rn(rintf(__fmul_rn(x[i], inverse)), zero_point);
        codes[i] = (unsigned char)fminf(fmaxf(code, 0.0f), 255.0f);
    }
}

__global__ void narrow(const float *x, long long n, unsigned short *halves) {
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float value = x[i];
        value = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
        halves[i] = __half_as_ushort(__float2half_rn(value));
    }
}

__global__ void widen(const unsigned char *bytes, long long n, float *x) {
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) x[i] = bytes[i];
}
"""
"""CUDA C. `range` and `quantise` are uint8, `narrow` is fp16, `widen` makes float32 of a picture's bytes."""

OPTIONS = ("--fmad=false", "--ftz=false", "--prec-div=true", "-include", "cuda_fp16.h")
BLOCK = 256
MAX_BLOCKS = 256
"""Enough threads for the largest GPU here; each of them takes every 65536th value of a large tensor."""
_ZERO_KEY = 0x80000000


def source() -> str:
    """The kernels with the constants of `codec.py`, exact to the bit."""
    per_code, smallest = np.float32(1 / 255), np.finfo(np.float32).tiny
    return f"#define PER_CODE {float(per_code).hex()}f\n#define SMALLEST_SCALE {float(smallest).hex()}f\n{SOURCE}"


def grid_of(num_elements: int) -> tuple[int, int]:
    """Blocks of `BLOCK` threads for a tensor: one thread an element, up to `MAX_BLOCKS`."""
    return max(1, min(MAX_BLOCKS, -(-num_elements // BLOCK))), 1


class CudaKernels:
    """The kernels, compiled for the GPU of the current context. Used by the thread that owns the context.

    All addresses are device addresses; everything is queued on `stream` and nothing is waited for.
    """

    def __init__(self, stream: Any) -> None:
        """Compile, or take pycuda's cached result. Raises EngineError: no nvcc in PATH, or it refuses."""
        from pycuda import compiler

        try:
            module = compiler.SourceModule(source(), options=list(OPTIONS))
        except Exception as error:  # pytools raises its own ExecError where there is no nvcc
            raise EngineError(
                f"nvcc does not compile the CUDA kernels ({_first_line(error)}); put the CUDA toolkit's bin folder into PATH"
            ) from error
        self._stream = stream
        self._range, self._quantise, self._narrow, self._widen = (
            module.get_function(name) for name in ("range", "quantise", "narrow", "widen")
        )

    def quantise(self, x: Any, num_elements: int, keys: Any, codes: Any, scale: Any, zero_point: Any) -> None:
        """float32 `x` to uint8 `codes`, float32 `scale` [1], uint8 `zero_point` [1]; `keys` is scratch of 8 bytes."""
        import pycuda.driver as cuda

        cuda.memset_d32_async(keys, _ZERO_KEY, 2, self._stream)
        self._launch(self._range, num_elements, x, np.int64(num_elements), keys)
        self._launch(self._quantise, num_elements, x, np.int64(num_elements), keys, codes, scale, zero_point)

    def narrow(self, x: Any, num_elements: int, halves: Any) -> None:
        """float32 `x` to float16 `halves`, clipped to the largest half."""
        self._launch(self._narrow, num_elements, x, np.int64(num_elements), halves)

    def widen(self, octets: Any, num_elements: int, x: Any) -> None:
        """uint8 `octets` to float32 `x`, 0..255."""
        self._launch(self._widen, num_elements, octets, np.int64(num_elements), x)

    def _launch(self, function: Any, num_elements: int, *arguments: Any) -> None:
        function(*arguments, block=(BLOCK, 1, 1), grid=grid_of(num_elements), stream=self._stream)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
