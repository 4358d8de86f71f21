"""The CUDA kernels' own source, compiled for the host's processor by its C compiler, one thread after the other.

What CUDA adds to C is a dozen lines here; the arithmetic, the indices and the loops are those that the GPU gets.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_CUDA = r"""
#include <math.h>
#include <stdbool.h>
#include <string.h>
#define __global__ static
#define __device__ static inline
typedef struct { int x; } dim;
static dim blockIdx, blockDim, threadIdx, gridDim;
static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline _Float16 __float2half_rn(float x) { return (_Float16)x; }
static inline unsigned short __half_as_ushort(_Float16 h) { unsigned short u; memcpy(&u, &h, 2); return u; }
static inline void atomicMin(unsigned *p, unsigned v) { if (v < *p) *p = v; }
static inline void atomicMax(unsigned *p, unsigned v) { if (v > *p) *p = v; }
"""
_KERNELS = {
    "range": ("const float *a, long long n, unsigned *b", "a, n, b"),
    "quantise": (
        "const float *a, long long n, const unsigned *b, unsigned char *c, float *d, unsigned char *e",
        "a, n, b, c, d, e",
    ),
    "narrow": ("const float *a, long long n, unsigned short *b", "a, n, b"),
    "widen": ("const unsigned char *a, long long n, float *b", "a, n, b"),
}
_FLAGS = ("-O1", "-ffp-contract=off", "-fno-fast-math", "-shared", "-fPIC", "-w", "-xc")


def compiler() -> str | None:
    """The host's C compiler that knows half floats; None where there is none."""
    for name in ("gcc", "clang", "cc"):
        path = shutil.which(name)
        if (
            path
            and not subprocess.run(
                [path, "-xc", "-fsyntax-only", "-"], input=b"_Float16 x;", capture_output=True, check=False
            ).returncode
        ):
            return path
    return None


def compile_kernels(source: str) -> ctypes.CDLL:
    """A library with `launch_NAME(blocks, threads, ...)` for every kernel."""
    launches = "".join(
        f"void launch_{name}(int blocks, int threads, {parameters}) {{\n"
        f"    gridDim.x = blocks; blockDim.x = threads;\n"
        f"    for (int i = 0; i < blocks; i++) for (int j = 0; j < threads; j++) {{\n"
        f"        blockIdx.x = i; threadIdx.x = j; {name}({arguments});\n    }}\n}}\n"
        for name, (parameters, arguments) in _KERNELS.items()
    )
    text = _CUDA + source + launches
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"splitrail-test-kernels-{os.getuid()}-{digest}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        path = compiler()
        assert path is not None
        subprocess.run([path, *_FLAGS, "-", "-o", str(partial), "-lm"], input=text.encode(), check=True)
        os.replace(partial, library)
    return ctypes.CDLL(str(library))
