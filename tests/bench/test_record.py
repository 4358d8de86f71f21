"""Records: whole, never changed, of one schema version, and with the circumstances they were measured in."""

import json
import os
import sys
import types
from datetime import datetime, timezone

import pydantic
import pytest

from splitrail.bench.environment import changing_environment, git_revision, host_environment, machine_id
from splitrail.bench.journal import journal_path
from splitrail.bench.memory import measure_memory
from splitrail.bench.meters.meter import MeterError
from splitrail.bench.record import Record, RecordError

MS = 1_000_000
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def write_run(folder, num=200, ended=True):
    """A run of one rank, 40 ms a frame."""
    environment = {**host_environment(), "command": "splitrail run --placement full"}
    lines = [
        {
            "e": "begin",
            "t": 0,
            "rank": 0,
            "host": "edge",
            "placement": "full",
            "source_rank": 0,
            "sink_rank": 0,
            "graphs": ["network"],
            "lanes": ["source+preprocess", "network", "postprocess+sink"],
            "threads": 1,
            "bundle": "abc123",
            "edges": {},
            "clocks": {},
            "environment": environment,
        },
        {"e": "stream", "t": 0},
    ]
    for frame in range(num):
        at = 40 * frame * MS
        lines.append({"e": "stage", "n": "network", "f": frame, "b": at, "t": at + 30 * MS})
        lines.append({"e": "fate", "f": frame, "x": "done", "r": "", "c": at, "p": at, "t": at + 35 * MS})
    if ended:
        lines.append({"e": "end", "t": 40 * num * MS, "num_captured": num, "environment": changing_environment()})
    folder.mkdir(exist_ok=True)
    journal_path(folder, 0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def record(tmp_path):
    settings = {"placement": "full", "threads": 1}
    return Record.of_run(write_run(tmp_path / "run"), "cell-7", settings, scenario="offline", created=CREATED)


def test_a_record_carries_its_circumstances(record):
    assert (record.valid, record.verdict) == (True, "valid")
    assert (record.bundle_checksum, record.command) == ("abc123", "splitrail run --placement full")
    assert record.git_revision == git_revision()
    assert record.summary["fps"] == 25.0
    (rank,) = record.ranks
    assert rank.environment["affinity"] == host_environment()["affinity"]
    assert set(rank.environment) >= {
        "packages",
        "governor",
        "nvpmodel",
        "temperatures_c",
        "throttling",
        "congestion_control",
        "machine_id",
    }
    assert rank.environment_after is not None
    assert set(rank.environment_after) == {"load_1min", "temperatures_c", "throttling", "clocks_mhz"}


def test_what_is_loaded_is_what_was_saved(record, tmp_path):
    path = tmp_path / "record.json"
    record.save(path)
    assert Record.load(path) == record
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_a_record_is_never_replaced_or_changed(record, tmp_path):
    path = tmp_path / "record.json"
    record.save(path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="never changed"):
        record.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []
    with pytest.raises(pydantic.ValidationError):
        record.valid = False
    path.write_text(path.read_text().replace('"fps": 25.0', '"fps": 30.0'))
    with pytest.raises(RecordError, match="changed after it was written"):
        Record.load(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema_version": 2}', "schema version 2 and this splitrail reads 1"),
        ('{"schema_version": 1, "name": "x"}', "changed after"),
        ("{}", "is not a record"),
        ("[1]", "is not a record"),
        ('{"schema_', "is not JSON"),
        (None, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, text, why):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordError, match=why) as caught:
        Record.load(path)
    assert caught.value.exit_code == 2


def test_a_run_that_was_cut_off_has_an_invalid_record(tmp_path):
    record = Record.of_run(write_run(tmp_path / "run", ended=False), "cell", {})
    assert not record.valid
    assert record.verdict.startswith("invalid: end: the run was cut off")
    assert record.ranks[0].environment_after is None


def test_too_few_frames_for_a_percentile_are_invalid(tmp_path):
    out = write_run(tmp_path / "run", num=120)
    assert Record.of_run(out, "cell", {}).valid
    assert "p95 needs 130" in Record.of_run(out, "cell", {}, shown=(50, 95)).verdict


def test_a_folder_without_a_journal_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no journal"):
        Record.of_run(tmp_path, "cell", {})


def write(root, files):
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def test_the_environment_of_a_jetson(tmp_path):
    write(
        tmp_path,
        {
            "var/lib/nvpmodel/status": "pmode:0002",
            "etc/nvpmodel.conf": "# a comment\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
            "< POWER_MODEL ID=2 NAME=MODE_15W >",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
            "proc/sys/kernel/random/boot_id": "0e1d-42",
            "proc/sys/net/ipv4/tcp_congestion_control": "cubic",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "51187",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
            "sys/class/thermal/thermal_zone2/type": "pll-therm",
            "sys/class/thermal/thermal_zone2/temp": "-256000",
            "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert",
            "sys/class/thermal/cooling_device0/cur_state": "1",
            "sys/class/thermal/cooling_device1/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": "3",
        },
    )
    found = host_environment(tmp_path)
    assert found["nvpmodel"] == "2: MODE_15W"
    assert found["model"] == "NVIDIA Jetson Orin Nano"
    assert (found["governor"], found["congestion_control"]) == ("schedutil", "cubic")
    assert found["temperatures_c"] == {"cpu-thermal": 51.187}
    assert found["throttling"] == {"cpu-throttle-alert": 1}
    assert machine_id(tmp_path) == "0e1d-42"


def test_what_a_host_does_not_tell_is_none(tmp_path):
    found = host_environment(tmp_path)
    for name in ("nvpmodel", "governor", "temperatures_c", "throttling", "congestion_control", "machine_id", "model"):
        assert found[name] is None
    assert json.loads(json.dumps(found)) == found


def test_memory_of_this_process():
    block = bytearray(b"x") * (64 << 20)
    full = measure_memory()
    del block
    after = measure_memory()
    assert full["resident_bytes"] > 64 << 20
    assert after["peak_resident_bytes"] >= full["resident_bytes"] - (1 << 20)
    assert after["resident_bytes"] < full["resident_bytes"] - (32 << 20)


def test_memory_shared_with_a_jetsons_gpu(tmp_path):
    write(
        tmp_path,
        {
            "self/status": "Name:\tpython\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB",
            "meminfo": "MemTotal:  8038768 kB\nNvMapMemFree:  94784 kB\nNvMapMemUsed:  805068 kB\nHugePages_Total:  0",
        },
    )
    found = measure_memory(tmp_path)
    assert (found["resident_bytes"], found["peak_resident_bytes"]) == (100 << 20, 200 << 20)
    assert found["gpu_memory"]["jetson_shared_bytes"] == 805068 * 1024


def test_gpu_memory_of_this_process_by_nvml_and_torch(monkeypatch, tmp_path):
    mine = types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 << 30)
    other = types.SimpleNamespace(pid=1, usedGpuMemory=9 << 30)
    processes = [mine, other]
    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: processes,
    )
    monkeypatch.setattr("splitrail.bench.memory.open_nvml", lambda: nvml)
    monkeypatch.setattr("splitrail.bench.memory.visible_devices", lambda nvml: [(0, "gpu")])
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        max_memory_reserved=lambda index: (index + 1) << 30,
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    gpu = measure_memory(tmp_path)["gpu_memory"]
    assert gpu["nvml_process_bytes"] == 3 << 30
    assert gpu["torch_peak_reserved_bytes"] == 3 << 30
    assert gpu["jetson_shared_bytes"].startswith("not measured: ")
    mine.usedGpuMemory = None
    assert "NVML lists no memory" in measure_memory(tmp_path)["gpu_memory"]["nvml_process_bytes"]

    def refuse():
        raise MeterError("no driver")

    monkeypatch.setattr("splitrail.bench.memory.open_nvml", refuse)
    assert measure_memory(tmp_path)["gpu_memory"]["nvml_process_bytes"] == "not measured: no driver"
