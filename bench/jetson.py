"""What a Jetson tells of itself: release, power mode, clocks, memory. Read from its files; no root, no jetson-stats.

Sources: NVIDIA's Jetson Linux developer guide, "Platform Power and Performance"; devfreq and cpufreq of the kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .meters.meter import read_text

_GPU_NAMES = ("gpu", "gp10b", "gv11b", "ga10b", "gm20b", "gb10b")
"""In the names of a Jetson's GPU under /sys/class/devfreq: TX2 gp10b, Xavier gv11b, Orin ga10b, Nano gm20b."""


def is_jetson(root: Path) -> bool:
    """Whether this host is one. `root` is where proc, sys and etc lie."""
    return (root / "etc/nv_tegra_release").exists() or "nvidia,tegra" in (
        read_text(root / "proc/device-tree/compatible") or ""
    )


def jetson_facts(root: Path) -> dict[str, Any] | None:
    """What stays as it is during a run, as JSON values; None on other hosts.

    `release` is the L4T release (JetPack 4.6 is R32.6/R32.7, JetPack 6 R36), `power_mode` like "0: MAXN", `shared_memory`
    that GPU and CPU use one DRAM, `max_clocks_mhz` what the power mode allows, by unit.
    """
    if not is_jetson(root):
        return None
    return {
        "release": _release(read_text(root / "etc/nv_tegra_release") or ""),
        "power_mode": nvpmodel(root),
        "shared_memory": True,
        "max_clocks_mhz": _clocks(root, "scaling_max_freq", "max_freq"),
    }


def jetson_clocks(root: Path) -> dict[str, float] | None:
    """Unit -> present clock in MHz; None on other hosts."""
    return _clocks(root, "scaling_cur_freq", "cur_freq") if is_jetson(root) else None


def nvpmodel(root: Path) -> str | None:
    """The power mode, "0: MAXN", as nvpmodel leaves it in its own files; None where there is none."""
    status = read_text(root / "var/lib/nvpmodel/status") or ""
    number = status.removeprefix("pmode:").split()
    if not number or not number[0].isdigit():
        return None
    mode = int(number[0])
    for line in (read_text(root / "etc/nvpmodel.conf") or "").splitlines():
        words = line.replace("<", " ").replace(">", " ").split()
        if words[:2] == ["POWER_MODEL", f"ID={mode}"]:
            return f"{mode}: {words[2].removeprefix('NAME=')}" if len(words) > 2 else str(mode)
    return str(mode)


def _release(text: str) -> str | None:
    """ "R32.7.1" of the first line, "# R32 (release), REVISION: 7.1, GCID: ..."."""
    words = text.replace(",", " ").split()
    if "REVISION:" not in words or len(words) < 2:
        return None
    return f"{words[1]}.{words[words.index('REVISION:') + 1]}"


def _clocks(root: Path, cpu_file: str, gpu_file: str) -> dict[str, float]:
    """MHz by unit: the CPU's clusters in kHz under cpufreq, the GPU in Hz under devfreq."""
    found = {}
    for policy in sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*")):
        value = read_text(policy / cpu_file)
        if value is not None and value.isdigit():
            found[f"cpu{policy.name.removeprefix('policy')}"] = int(value) / 1e3
    for device in sorted(root.glob("sys/class/devfreq/*")):
        value = read_text(device / gpu_file)
        if any(name in device.name for name in _GPU_NAMES) and value is not None and value.isdigit():
            found["gpu"] = int(value) / 1e6
    return found
