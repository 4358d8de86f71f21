"""The driver's own account of the GPUs, from a driver of ours."""

import shutil
import subprocess
from pathlib import Path

import pytest

from splitrail.stages.engines.cuda_devices import CudaDevice, NoCudaError, cuda_devices, why_no_tensorrt

DRIVER = r"""
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 10 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device == 10 ? "Orin" : "Ada", size); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 1000000000UL * device; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? (device == 10 ? 7 : 9) : attribute == 18 ? device == 10 : -1;
    return 0;
}
int cuGetErrorString(int code, const char **text) { *text = code == 100 ? "no CUDA-capable device is detected" : 0; return 0; }
"""


@pytest.fixture
def driver(tmp_path: Path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")

    def make(count: int = 2, init: int = 0) -> str:
        path = tmp_path / f"driver-{count}-{init}.so"
        options = ["-shared", "-fPIC", "-w", f"-DCOUNT={count}", f"-DINIT={init}", "-xc", "-", "-o", str(path)]
        subprocess.run([compiler, *options], input=DRIVER.encode(), check=True)
        return str(path)

    return make


def test_every_device_with_what_it_is(driver) -> None:
    assert cuda_devices(driver()) == [
        CudaDevice("Orin", (8, 7), 10_000_000_000, True),
        CudaDevice("Ada", (8, 9), 11_000_000_000, False),
    ]


def test_a_host_without_gpu_says_why(driver, tmp_path: Path) -> None:
    for library, reason in (
        (driver(count=0), "the CUDA driver finds no GPU"),
        (driver(init=100), "the CUDA driver answers: no CUDA-capable device is detected"),
        (driver(init=3), "the CUDA driver answers: error 3"),
        (str(tmp_path / "nothing.so"), "no CUDA driver"),
    ):
        with pytest.raises(NoCudaError, match=reason):
            cuda_devices(library)


def test_what_is_missing_for_tensorrt_is_one_clause(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from splitrail.stages.engines import cuda_devices as module

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pycuda" else find(name))
    assert why_no_tensorrt() == "pycuda is not installed: pip install 'splitrail[tensorrt]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "DRIVER", "no-such-driver.so")
    monkeypatch.setattr(module.cuda_devices, "__defaults__", ("no-such-driver.so",))
    assert why_no_tensorrt() == "no CUDA driver (libcuda.so.1) on this host; take another engine"
