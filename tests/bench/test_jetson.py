"""A Jetson's facts from trees of files as JetPack 4 and 6 leave them."""

from pathlib import Path

from splitrail.bench.environment import host_environment
from splitrail.bench.jetson import is_jetson, jetson_clocks, jetson_facts

TX2 = {
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t186ref, EABI: aarch64, DATE: Sat Feb 19\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_1 1\n< POWER_MODEL ID=3 NAME=MAXP_CORE_ARM >\n",
    "var/lib/nvpmodel/status": "pmode:0003 fmode:quiet\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2035200\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "345600\n",
    "sys/class/devfreq/17000000.gp10b/max_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gp10b/cur_freq": "114750000\n",
    "sys/class/devfreq/other/cur_freq": "5\n",
    "sys/class/thermal/thermal_zone0/type": "GPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
}
ORIN = {
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000-super\0nvidia,p3767-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_tx2(tmp_path: Path) -> None:
    root = tree(tmp_path, TX2)
    assert jetson_facts(root) == {
        "release": "R32.7.1",
        "power_mode": "3: MAXP_CORE_ARM",
        "shared_memory": True,
        "max_clocks_mhz": {"cpu0": 2035.2, "gpu": 1300.5},
    }
    environment = host_environment(root)
    assert environment["jetson"] == jetson_facts(root)
    assert environment["clocks_mhz"] == {"cpu0": 345.6, "gpu": 114.75}
    assert environment["temperatures_c"] == {"GPU-therm": 41.5}
    assert environment["nvpmodel"] == "3: MAXP_CORE_ARM"


def test_an_orin_that_tells_less(tmp_path: Path) -> None:
    root = tree(tmp_path, ORIN)
    facts = jetson_facts(root)
    assert facts is not None
    assert (facts["release"], facts["power_mode"]) == ("R36.4.3", None)
    assert facts["max_clocks_mhz"] == {"gpu": 1020.0}
    (root / "etc/nv_tegra_release").unlink()
    assert is_jetson(root)
    facts = jetson_facts(root)
    assert facts is not None
    assert facts["release"] is None


def test_other_hosts_are_none(tmp_path: Path) -> None:
    root = tree(tmp_path, {"sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2400000\n"})
    assert not is_jetson(root)
    assert jetson_facts(root) is None
    assert jetson_clocks(root) is None
