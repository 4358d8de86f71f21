"""`SourceModule`: the kernels, compiled for the host."""

import numpy as np
from host_kernels import compile_kernels

from . import driver


class ExecError(OSError):
    """What pytools raises where a program is missing."""


class SourceModule:
    def __init__(
        self,
        source,
        nvcc="nvcc",
        options=None,
        keep=False,
        no_extern_c=False,
        arch=None,
        code=None,
        cache_dir=None,
        include_dirs=None,
    ):
        driver.check_thread()
        driver.CALLS.append(("SourceModule", tuple(options or ())))
        if "no nvcc" in driver.trouble():
            raise ExecError("error invoking 'nvcc --version': [Errno 2] No such file or directory: 'nvcc'")
        self._library = compile_kernels(source)

    def get_function(self, name):
        return Function(name, getattr(self._library, f"launch_{name}"))


class Function:
    def __init__(self, name, launch):
        self._name, self._launch = name, launch

    def __call__(self, *args, block, grid=(1, 1), stream=None, shared=0, texrefs=(), time_kernel=False):
        import ctypes

        driver.check_thread()
        for arg in args:
            assert isinstance(arg, driver.DeviceAllocation | np.number), f"{type(arg)} cannot be a kernel's argument"
        driver.CALLS.append((self._name, tuple(map(driver.described, args)), block, grid))
        words = [
            ctypes.c_void_p(int(arg)) if isinstance(arg, driver.DeviceAllocation) else ctypes.c_longlong(int(arg))
            for arg in args
        ]
        stream.queue(lambda: self._launch(grid[0] * grid[1], block[0] * block[1] * block[2], *words))
