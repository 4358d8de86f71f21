"""Meters on trees of sysfs as boards have them, on a fake NVML and a fake jetson-stats."""

import sys
import types

import pytest

from splitrail.bench.meters.choice import choose_meters
from splitrail.bench.meters.ina3221 import Ina3221
from splitrail.bench.meters.jetson_stats import JetsonStats
from splitrail.bench.meters.meter import MeterError
from splitrail.bench.meters.nvml import Nvml
from splitrail.bench.meters.rapl import Rapl


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


def iio(sysfs, address, device, rails):
    """A monitor as the kernel of JetPack 4 shows it: rail -> (mV, mA, mW)."""
    folder = sysfs / "bus/i2c/drivers/ina3221x" / address / f"iio:device{device}"
    write(folder, {"name": "ina3221x"})
    for number, (name, (voltage, current, power)) in enumerate(rails.items()):
        write(
            folder,
            {
                f"rail_name_{number}": name,
                f"in_voltage{number}_input": voltage,
                f"in_current{number}_input": current,
                f"in_power{number}_input": power,
                f"crit_current_limit_{number}": 32760,
            },
        )


def hwmon(sysfs, address, number, rails):
    """A monitor as the kernel of JetPack 5 and newer shows it: rail -> (mV, mA). Shunt voltages are in4 to in6, their sum in7."""
    folder = sysfs / "bus/i2c/drivers/ina3221" / address / "hwmon" / f"hwmon{number}"
    write(folder, {"name": "ina3221", "in7_label": "sum of shunt voltages", "in7_input": 760, "curr4_input": 360})
    for channel, (name, (voltage, current)) in enumerate(rails.items(), 1):
        write(
            folder,
            {
                f"in{channel}_label": name,
                f"in{channel}_input": voltage,
                f"curr{channel}_input": current,
                f"in{channel + 3}_input": 400,
                f"curr{channel}_crit": 32760,
            },
        )


@pytest.fixture
def tx2(tmp_path):
    """Jetson TX2 on its developer kit, JetPack 4: two monitors on the module, two on the carrier board."""
    iio(
        tmp_path,
        "0-0040",
        0,
        {
            "VDD_SYS_GPU": (19152, 152, 2913),
            "VDD_SYS_SOC": (19160, 48, 919),
            "VDD_4V0_WIFI": (4792, 8, 38),
        },
    )
    iio(
        tmp_path,
        "0-0041",
        1,
        {
            "VDD_IN": (19152, 352, 6742),
            "VDD_SYS_CPU": (19160, 64, 1226),
            "VDD_SYS_DDR": (4784, 152, 727),
        },
    )
    iio(tmp_path, "0-0042", 2, {"VDD_MUX": (19136, 432, 8267), "VDD_5V0_IO_SYS": (4984, 344, 1714)})
    return tmp_path


@pytest.fixture
def orin_nano(tmp_path):
    """Jetson Orin Nano and NX, JetPack 5 and 6: one monitor, its first rail is the whole module."""
    rails = {"VDD_IN": (4984, 960), "VDD_CPU_GPU_CV": (4976, 120), "VDD_SOC": (4976, 304)}
    hwmon(tmp_path, "1-0040", 3, rails)
    return tmp_path


@pytest.fixture
def agx_orin(tmp_path):
    """Jetson AGX Orin, JetPack 5: two monitors, unused channels, no rail of the whole module."""
    hwmon(
        tmp_path,
        "1-0040",
        3,
        {"VDD_GPU_SOC": (12008, 280), "VDD_CPU_CV": (12008, 40), "VIN_SYS_5V0": (4968, 980)},
    )
    hwmon(tmp_path, "1-0041", 4, {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4968, 80)})
    return tmp_path


def test_a_tx2_has_its_module_rail_as_the_total(tx2):
    meter = Ina3221(tx2)
    watts = meter.read()
    assert watts["VDD_IN"] == 6.742
    assert watts["VDD_SYS_GPU"] == 2.913
    assert len(watts) == 8
    assert (meter.total, meter.gpu_rail, meter.scope, meter.unit) == (("VDD_IN",), "VDD_SYS_GPU", "module", "W")


def test_an_orin_nano_multiplies_voltage_and_current(orin_nano):
    meter = Ina3221(orin_nano)
    watts = meter.read()
    assert watts == {
        "VDD_IN": pytest.approx(4.78464),
        "VDD_CPU_GPU_CV": pytest.approx(0.59712),
        "VDD_SOC": pytest.approx(1.512704),
    }
    assert (meter.total, meter.gpu_rail) == (("VDD_IN",), "VDD_CPU_GPU_CV")


def test_an_agx_orin_sums_its_rails_and_says_so(agx_orin):
    meter = Ina3221(agx_orin)
    assert set(meter.total) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert "sum" in meter.scope
    assert sum(meter.read().values()) == pytest.approx((12008 * 320 + 4968 * 1060) / 1e6)


def test_a_rail_that_stops_answering_is_an_error_and_not_zero(orin_nano):
    meter = Ina3221(orin_nano)
    next(orin_nano.rglob("curr2_input")).unlink()
    with pytest.raises(MeterError, match="curr2_input cannot be read"):
        meter.read()


def rapl(sysfs, uj):
    powercap = sysfs / "class/powercap"
    for zone, name, value in (
        ("intel-rapl:0", "package-0", uj),
        ("intel-rapl:0:0", "core", uj // 2),
        ("intel-rapl:0:1", "dram", 1_000_000),
        ("intel-rapl:1", "psys", 9_000_000),
        ("intel-rapl-mmio:0", "package-0", uj),
    ):
        write(powercap / zone, {"name": name, "energy_uj": value, "max_energy_range_uj": 262_143_328_850})
    return powercap


def test_rapl_counts_packages_and_memory_once(tmp_path):
    powercap = rapl(tmp_path, 10_000_000)
    meter = Rapl(tmp_path)
    assert meter.total == ("package-0", "package-0/dram")
    assert meter.read()["package-0"] == 0
    (powercap / "intel-rapl:0/energy_uj").write_text("12500000\n")
    (powercap / "intel-rapl:0:1/energy_uj").write_text("1250000\n")
    assert meter.read() == {"package-0": 2.5, "package-0/core": 0, "package-0/dram": 0.25, "psys": 0}


def test_a_rapl_counter_that_wraps_goes_on_growing(tmp_path):
    powercap = rapl(tmp_path, 262_143_000_000)
    meter = Rapl(tmp_path)
    for value, grown in ((262_143_300_000, 0.3), (500_000, 0.82885), (1_500_000, 1.82885)):
        (powercap / "intel-rapl:0/energy_uj").write_text(f"{value}\n")
        assert meter.read()["package-0"] == pytest.approx(grown)


class FakeNvmlError(Exception):
    pass


def fake_nvml(gpus, *, initialises=True):
    """A pynvml of GPUs: each a dict with energy_mj and power_mw, None for "Not Supported"."""
    module = types.ModuleType("pynvml")
    module.NVMLError = FakeNvmlError
    module.num_open = 0

    def init():
        if not initialises:
            raise FakeNvmlError("Driver Not Loaded")
        module.num_open += 1

    def shut_down():
        module.num_open -= 1

    def ask(key):
        def answer(gpu):
            if gpu[key] is None:
                raise FakeNvmlError("Not Supported")
            return gpu[key]

        return answer

    module.nvmlInit = init
    module.nvmlShutdown = shut_down
    module.nvmlDeviceGetCount = lambda: len(gpus)
    module.nvmlDeviceGetHandleByIndex = lambda index: gpus[index]
    module.nvmlDeviceGetUUID = lambda gpu: gpu["uuid"]
    module.nvmlDeviceGetTotalEnergyConsumption = ask("energy_mj")
    module.nvmlDeviceGetPowerUsage = ask("power_mw")
    module.nvmlDeviceGetComputeRunningProcesses = ask("processes")
    return module


def gpu(**facts):
    return {"uuid": "GPU-1234abcd", "energy_mj": 5_000_000, "power_mw": 71_500, "processes": [], **facts}


def use_nvml(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_nvml_prefers_the_energy_counter(monkeypatch):
    use_nvml(monkeypatch, fake_nvml([gpu()]))
    meter = Nvml()
    assert (meter.unit, meter.total, meter.gpu_rail) == ("J", ("gpu0",), "gpu0")
    assert meter.read() == {"gpu0": 5000.0}
    meter.close()
    assert sys.modules["pynvml"].num_open == 0


def test_nvml_takes_the_power_of_gpus_without_a_counter(monkeypatch):
    use_nvml(monkeypatch, fake_nvml([gpu(energy_mj=None), gpu(power_mw=30_000)]))
    meter = Nvml()
    assert meter.unit == "W"
    assert meter.read() == {"gpu0": 71.5, "gpu1": 30.0}


@pytest.mark.parametrize(
    ("visible", "rails"), [("1", {"gpu1"}), ("GPU-beef", {"gpu1"}), ("1,0", {"gpu0", "gpu1"}), ("0,7,1", {"gpu0"})]
)
def test_nvml_counts_only_the_gpus_of_this_process(monkeypatch, visible, rails):
    use_nvml(monkeypatch, fake_nvml([gpu(), gpu(uuid="GPU-beef0000")]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert set(Nvml().read()) == rails


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (fake_nvml([gpu(energy_mj=None, power_mw=None)]), "neither energy nor power"),  # as on a Jetson
        (fake_nvml([]), "no GPU"),
        (fake_nvml([gpu()], initialises=False), "Driver Not Loaded"),
        (None, "nvidia-ml-py is not installed"),
    ],
)
def test_nvml_without_an_answer_says_why(monkeypatch, module, why):
    use_nvml(monkeypatch, module)
    with pytest.raises(MeterError, match=why):
        Nvml()
    assert module is None or module.num_open == 0


def fake_jtop(power, *, runs=True):
    class JtopException(Exception):
        pass

    class Jtop:
        def __init__(self, interval):
            self.closed = False

        def start(self):
            if not runs:
                raise JtopException("The jetson_stats.service is not active")

        def ok(self):
            return True

        def close(self):
            self.closed = True

    Jtop.power = property(lambda self: power)
    module = types.ModuleType("jtop")
    module.jtop, module.JtopException = Jtop, JtopException
    return module


JTOP_POWER = {
    "rail": {"VDD_CPU_GPU_CV": {"volt": 4976, "curr": 120, "power": 597, "avg": 610}},
    "tot": {"volt": 4984, "curr": 960, "power": 4784, "avg": 4700, "name": "VDD_IN"},
}


def test_jetson_stats_is_asked_when_sysfs_has_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jtop", fake_jtop(JTOP_POWER))
    choice = choose_meters(tmp_path)
    (meter,) = choice.meters
    assert isinstance(meter, JetsonStats)
    assert meter.read() == {"VDD_CPU_GPU_CV": 0.597, "VDD_IN": 4.784}
    assert (meter.total, choice.reason) == (("VDD_IN",), "")


def test_a_jetson_uses_its_monitors_alone(monkeypatch, orin_nano):
    use_nvml(monkeypatch, fake_nvml([gpu()]))
    assert [meter.name for meter in choose_meters(orin_nano).meters] == ["ina3221"]


def test_a_workstation_adds_gpu_and_processor(monkeypatch, tmp_path):
    use_nvml(monkeypatch, fake_nvml([gpu()]))
    monkeypatch.setitem(sys.modules, "jtop", fake_jtop({}, runs=False))
    rapl(tmp_path, 0)
    choice = choose_meters(tmp_path)
    assert [(meter.name, meter.scope) for meter in choice.meters] == [("nvml", "gpu"), ("rapl", "cpu")]
    assert "not active" in choice.missing["jetson-stats"]


def test_a_host_without_any_says_why_for_each(monkeypatch, tmp_path):
    use_nvml(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "jtop", None)
    choice = choose_meters(tmp_path)
    assert choice.meters == ()
    for part in ("ina3221: no INA3221", "jetson-stats: ", "pip install 'splitrail[bench]'", "rapl: no RAPL"):
        assert part in choice.reason
