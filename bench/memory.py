"""Memory of this process, and what it holds of a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .meters.meter import MeterError, read_text
from .meters.nvml import open_nvml, visible_devices

PROC = Path("/proc")


def measure_memory(proc: Path = PROC) -> dict[str, Any]:
    """Memory now and at its peak, bytes, as JSON values; a value that cannot be had is None.

    `gpu_memory` says what each source tells, or why not:
    `torch_peak_reserved_bytes` of this process, where torch runs on CUDA; `nvml_process_bytes` of this process now, the CUDA
    context included; `jetson_shared_bytes`, the memory that the GPU of a Jetson shares with all processes.
    """
    status = _fields(proc / "self" / "status")
    gpu: dict[str, int | str] = {}
    for name, tell in (
        ("torch_peak_reserved_bytes", _torch_bytes),
        ("nvml_process_bytes", _nvml_bytes),
        ("jetson_shared_bytes", lambda: _jetson_bytes(proc)),
    ):
        try:
            gpu[name] = tell()
        except MeterError as error:
            gpu[name] = f"not measured: {error}"
    return {
        "resident_bytes": status.get("VmRSS"),
        # Not getrusage's ru_maxrss: that one survives exec, so it may be the peak of the program that started this one.
        "peak_resident_bytes": status.get("VmHWM"),
        "gpu_memory": gpu,
    }


def _torch_bytes() -> int:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        raise MeterError("torch does not run on CUDA here")
    return sum(int(torch.cuda.max_memory_reserved(index)) for index in range(torch.cuda.device_count()))


def _nvml_bytes() -> int:
    nvml = open_nvml()
    try:
        mine = [
            process.usedGpuMemory
            for _, handle in visible_devices(nvml)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid == os.getpid()
        ]
    except nvml.NVMLError as error:
        raise MeterError(f"NVML does not tell ({error})") from error
    finally:
        nvml.nvmlShutdown()
    if not mine or None in mine:
        # In a container NVML tells the host's process numbers; under MIG it tells no memory at all.
        raise MeterError("NVML lists no memory under this process's number")
    return sum(mine)


def _jetson_bytes(proc: Path) -> int:
    used = _fields(proc / "meminfo").get("NvMapMemUsed")
    if used is None:
        raise MeterError("no NvMapMemUsed in /proc/meminfo; only Jetson modules have it")
    return used


def _fields(path: Path) -> dict[str, int]:
    """The lines "name: number kB" of a file of the kernel's, in bytes."""
    found = {}
    for line in (read_text(path) or "").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if len(parts) == 2 and parts[1] == "kB":
            found[name] = int(parts[0]) * 1024
    return found
