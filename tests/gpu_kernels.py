"""The CUDA kernels on a real GPU without pycuda: nvcc makes a library of them that takes host arrays."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from splitrail.stages.engines.cuda_kernels import BLOCK, OPTIONS, grid_of, source

_HOST = r"""
extern "C" int uint8_of(const float *x, long long n, int blocks, int threads,
                        unsigned char *codes, float *scale, unsigned char *zero_point) {
    float *dx, *ds; unsigned *keys; unsigned char *dc, *dz;
    unsigned zero[2] = {0x80000000u, 0x80000000u};
    cudaMalloc(&dx, 4 * n); cudaMalloc(&dc, n); cudaMalloc(&ds, 4); cudaMalloc(&dz, 1); cudaMalloc(&keys, 8);
    cudaMemcpy(dx, x, 4 * n, cudaMemcpyHostToDevice);
    cudaMemcpy(keys, zero, 8, cudaMemcpyHostToDevice);
    range<<<blocks, threads>>>(dx, n, keys);
    quantise<<<blocks, threads>>>(dx, n, keys, dc, ds, dz);
    cudaMemcpy(codes, dc, n, cudaMemcpyDeviceToHost);
    cudaMemcpy(scale, ds, 4, cudaMemcpyDeviceToHost);
    cudaMemcpy(zero_point, dz, 1, cudaMemcpyDeviceToHost);
    cudaFree(dx); cudaFree(dc); cudaFree(ds); cudaFree(dz); cudaFree(keys);
    return (int)cudaGetLastError();
}
extern "C" int fp16_of(const float *x, long long n, int blocks, int threads, unsigned short *halves) {
    float *dx; unsigned short *dh;
    cudaMalloc(&dx, 4 * n); cudaMalloc(&dh, 2 * n);
    cudaMemcpy(dx, x, 4 * n, cudaMemcpyHostToDevice);
    narrow<<<blocks, threads>>>(dx, n, dh);
    cudaMemcpy(halves, dh, 2 * n, cudaMemcpyDeviceToHost);
    cudaFree(dx); cudaFree(dh);
    return (int)cudaGetLastError();
}
"""


def build(nvcc: str, folder: Path, architecture: str = "native") -> Path:
    """The library; `architecture` as nvcc's -arch takes it."""
    (folder / "kernels.cu").write_text(f'extern "C" {{\n{source()}\n}}\n{_HOST}')
    library = folder / "kernels.so"
    command = [nvcc, "-shared", "-Xcompiler", "-fPIC", f"-arch={architecture}", *OPTIONS]
    subprocess.run([*command, "-o", str(library), str(folder / "kernels.cu")], check=True, timeout=200)
    return library


class GpuKernels:
    """Wire forms by the GPU, as the codec names them."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def uint8(self, x: np.ndarray) -> dict[str, np.ndarray]:
        parts = {"_uint8": np.zeros(x.shape, np.uint8), "_scale": np.zeros(1, np.float32)}
        parts["_zero_point"] = np.zeros(1, np.uint8)
        self._run(self._library.uint8_of, x, *parts.values())
        return parts

    def fp16(self, x: np.ndarray) -> dict[str, np.ndarray]:
        halves = np.zeros(x.shape, np.float16)
        self._run(self._library.fp16_of, x, halves)
        return {"_fp16": halves}

    @staticmethod
    def _run(function, x: np.ndarray, *outputs: np.ndarray) -> None:
        blocks, _ = grid_of(x.size)
        places = [ctypes.c_void_p(array.ctypes.data) for array in outputs]
        code = function(ctypes.c_void_p(x.ctypes.data), ctypes.c_longlong(x.size), blocks, BLOCK, *places)
        assert code == 0, f"CUDA error {code}"
