"""NVIDIA GPUs, by NVML: the energy counter where the GPU has one (Volta and newer), else its power.

NVML reference: https://docs.nvidia.com/deploy/nvml-api/. On Ampere and newer the power is an average over 1 s and the counter
moves in steps, so windows of less than 1 s say nothing. On a Jetson, NVML answers to nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from .meter import MeterError, Unit


class Nvml:
    """Energy or power of the GPUs that this process may use (CUDA_VISIBLE_DEVICES); rails are gpu0, gpu1, ..."""

    name = "nvml"
    scope = "gpu"
    min_window_s = 1.0
    unit: Unit

    def __init__(self) -> None:
        """Raises MeterError: no nvidia-ml-py, no driver, no GPU, or one that tells neither energy nor power."""
        self._nvml = open_nvml()
        try:
            self._devices = {f"gpu{index}": handle for index, handle in visible_devices(self._nvml)}
            if not self._devices:
                raise MeterError("NVML finds no GPU that this process may use; see CUDA_VISIBLE_DEVICES")
            self.total = tuple(self._devices)
            self.gpu_rail = self.total[0] if len(self.total) == 1 else None
            try:
                self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
                self.unit = "J"
            except self._nvml.NVMLError:
                self._read(self._nvml.nvmlDeviceGetPowerUsage)
                self.unit = "W"
        except self._nvml.NVMLError as error:
            self.close()
            raise MeterError(f"NVML tells neither energy nor power of this GPU ({error})") from error
        except MeterError:
            self.close()
            raise

    def read(self) -> Mapping[str, float]:
        """GPU -> joules since its driver was loaded, or watts."""
        nvml = self._nvml
        try:
            return self._read(
                nvml.nvmlDeviceGetTotalEnergyConsumption if self.unit == "J" else nvml.nvmlDeviceGetPowerUsage
            )
        except nvml.NVMLError as error:
            raise MeterError(f"NVML stopped answering ({error}); see nvidia-smi") from error

    def close(self) -> None:
        """Leave NVML."""
        self._nvml.nvmlShutdown()

    def _read(self, ask: Any) -> dict[str, float]:
        # Both calls answer in thousandths: mJ, mW.
        return {name: ask(handle) / 1e3 for name, handle in self._devices.items()}


def open_nvml() -> ModuleType:
    """NVML, initialised; the caller calls `nvmlShutdown`. Raises MeterError."""
    try:
        import pynvml
    except ImportError as error:
        raise MeterError("nvidia-ml-py is not installed; pip install 'splitrail[bench]'") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise MeterError(f"NVML does not start ({error}); an NVIDIA driver is needed") from error
    return pynvml  # type: ignore[no-any-return]


def visible_devices(nvml: Any) -> list[tuple[int, Any]]:
    """NVML's index and handle of each GPU that CUDA_VISIBLE_DEVICES leaves to this process. Raises NVMLError.

    Numbers there count as NVML does only with CUDA_DEVICE_ORDER=PCI_BUS_ID; with GPUs of one model both orders agree.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return list(enumerate(handles))
    chosen = []
    for item in (part.strip() for part in wanted.split(",")):
        if item.isdigit() and int(item) < len(handles):
            chosen.append((int(item), handles[int(item)]))
        elif item.startswith("GPU-"):
            chosen += [pair for pair in enumerate(handles) if str(nvml.nvmlDeviceGetUUID(pair[1])).startswith(item)]
        else:
            break  # CUDA too ignores what follows the first one that it does not know
    return chosen
