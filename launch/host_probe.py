"""What this host has: versions, engines, devices, sensors."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from .. import __version__
from ..bench.environment import host_environment
from ..bench.meters.ina3221 import Ina3221
from ..bench.meters.meter import Meter, MeterError
from ..bench.meters.rapl import Rapl
from ..pipeline.errors import HostError
from ..stages.engines.cuda_devices import NoCudaError, cuda_devices
from ..stages.engines.registry import EngineOffer, engine_offers
from .mpirun import detect_mpi

_ENGINES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "torch": ("torch",),
    "pycuda": ("pycuda",),
}
"""Module -> the distributions that bring it."""
_NVIDIA_SMI_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class HostProbe:
    """What a host has. Missing things are None or empty, never 0."""

    hostname: str
    machine: str
    """Architecture: x86_64, aarch64."""
    model: str | None
    """What the board calls itself, on devices that do."""
    cpu: str | None
    num_cpus: int
    """How many this process may use."""
    governor: str | None
    memory_bytes: int
    python: str
    splitrail: str
    mpi: str | None
    """Version of mpirun; None: `mpi_problem` says why."""
    mpi_problem: str | None
    mpi_library: str | None
    """The MPI that mpi4py loads, like "Open MPI 5.0.11"; None where it loads none."""
    mpi4py: str | None
    engines: dict[str, str]
    """Name -> version, or "installed" where it tells none."""
    cuda_devices: list[str]
    sensors: dict[str, str]
    """Power sensor -> "ok", or why it is of no use here."""
    congestion_control: str | None
    graph_engines: dict[str, str]
    """Engine that runs a bundle's graphs -> its precisions here, or what is missing, with the remedy."""
    jetson: dict[str, Any] | None
    """`jetson_facts`; None on other hosts."""
    temperatures_c: dict[str, float] | None
    """Of a Jetson's thermal zones; None on other hosts."""
    nvcc: str | None
    """Where it is; None: the wire's bytes are made on the CPU behind a TensorRT engine."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> HostProbe:
        """From what the probe printed; lines before the last are somebody else's (a login script). Raises ValueError."""
        raw = json.loads((text.strip().splitlines() or [""])[-1])
        names = {field.name for field in fields(HostProbe)}
        if not isinstance(raw, dict) or not names <= set(raw):
            raise ValueError("not a host probe")
        return HostProbe(**{name: raw[name] for name in names})

    @staticmethod
    def measure(prefix: str | None = None) -> HostProbe:
        """Look at this host. `prefix` is the folder of Open MPI, else it is looked for as `detect_mpi` does."""
        mpi = mpi_problem = None
        try:
            mpi = detect_mpi(Path(prefix) / "bin" / "mpirun" if prefix else None).version_text
        except HostError as error:
            mpi_problem = str(error)
        devices, nvml = _nvidia()
        environment = host_environment()
        return HostProbe(
            hostname=socket.gethostname(),
            machine=platform.machine(),
            model=_read("/proc/device-tree/model"),
            cpu=_cpu_name(),
            num_cpus=len(os.sched_getaffinity(0)),
            governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes=int(psutil.virtual_memory().total),
            python=platform.python_version(),
            splitrail=__version__,
            mpi=mpi,
            mpi_problem=mpi_problem,
            mpi_library=_mpi_library(),
            mpi4py=_version("mpi4py"),
            engines=_engines(),
            cuda_devices=devices or _driver_devices(),
            sensors={"ina3221": _sensor(Ina3221), "nvml": nvml, "rapl": _sensor(Rapl)},
            congestion_control=_read("/proc/sys/net/ipv4/tcp_congestion_control"),
            graph_engines=_graph_engines(),
            jetson=environment["jetson"],
            temperatures_c=environment["temperatures_c"] if environment["jetson"] is not None else None,
            nvcc=shutil.which("nvcc"),
        )


def _mpi_library() -> str | None:
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI

        text = str(MPI.Get_library_version())
    except (ImportError, RuntimeError):
        return None
    return text.partition(",")[0].replace("Open MPI v", "Open MPI ").strip().splitlines()[0]


def _engines() -> dict[str, str]:
    found = {}
    for module, distributions in _ENGINES.items():
        versions = [version for name in distributions if (version := _version(name)) is not None]
        if versions:
            found[module] = versions[0]
        elif importlib.util.find_spec(module) is not None:
            found[module] = "installed"
    return found


def _graph_engines() -> dict[str, str]:
    """By engine that a run knows: the precisions that it has here, or else the one reason why it has none."""
    from . import workshop  # noqa: F401  registers those that are not in stages

    found: dict[str, list[EngineOffer]] = {}
    for offer in engine_offers():
        found.setdefault(offer.engine, []).append(offer)
    return {
        engine: " ".join(offer.precision for offer in offers if not offer.missing) or offers[0].missing
        for engine, offers in found.items()
    }


def _driver_devices() -> list[str]:
    """The same by the driver itself, for a Jetson, which has no nvidia-smi or one that tells nothing."""
    try:
        devices = cuda_devices()
    except NoCudaError:
        return []
    return [
        f"{device.name} (compute {device.capability[0]}.{device.capability[1]}, "
        f"{device.memory_bytes >> 20} MiB{' shared with the CPU' if device.shares_memory else ''})"
        for device in devices
    ]


def _nvidia() -> tuple[list[str], str]:
    """The CUDA devices by name, and what NVML says of their power."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "no nvidia-smi"
    query = [program, "--query-gpu=name,memory.total,power.draw", "--format=csv,noheader"]
    try:
        result = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=_NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return [], "nvidia-smi does not answer"
    rows = [[cell.strip() for cell in line.split(",")] for line in result.stdout.splitlines() if line.count(",") == 2]
    if result.returncode != 0 or not rows:
        return [], "nvidia-smi finds no device"
    has_power = all(row[2].endswith(" W") for row in rows)
    return [f"{row[0]} ({row[1]})" for row in rows], "ok" if has_power else "no power reading"


def _sensor(open_meter: Callable[[], Meter]) -> str:
    try:
        open_meter().close()
    except MeterError as error:
        return str(error).partition(";")[0]
    return "ok"


def _cpu_name() -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            return value.strip()
    return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: str | Path) -> str | None:
    """A file of the kernel's as text, or None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip().rstrip("\0") or None
    except OSError:
        return None
