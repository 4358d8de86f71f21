"""Power measured in a whole run: one rank of the machine samples it, and the journals alone tell the energy."""

import json
import os
import subprocess

import pytest
from run_support import NUM_FRAMES, command

from splitrail.bench.energy import IDLE_S
from splitrail.bench.journal import journal_path, read_journal
from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi

# A GPU whose energy counter grows by 50 W.
FAKE_NVML = """
import time

class NVMLError(Exception): ...

def nvmlInit(): ...
def nvmlShutdown(): ...
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetTotalEnergyConsumption(handle): return round(time.monotonic() * 50_000)
def nvmlDeviceGetComputeRunningProcesses(handle): return []
"""


@pytest.mark.mpi
def test_energy_of_a_run(bundle, clip, tmp_path):
    (tmp_path / "pynvml.py").write_text(FAKE_NVML)
    config = tmp_path / "run.json"
    config.write_text(
        json.dumps(
            {
                # At a rate, so that the timed window is longer than the second that NVML needs.
                "source": {"uri": str(clip), "rate_fps": 20},
                "sink": {"video": False},
                "policy": "wait",
                "bundle": str(bundle),
                "out": str(tmp_path / "out"),
                "engine": "onnxruntime",
                "measure_power": True,
            }
        )
    )
    ranks = [RankSpec(None, tuple(command("rank", "--config", config)))] * 2
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    result = subprocess.run(
        build_command(detect_mpi(), ranks), capture_output=True, text=True, timeout=90, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    gpu = next(entry for entry in summary["energy"] if entry["meter"] == "nvml")
    assert gpu["mean_w"] == pytest.approx(50, rel=0.02)
    assert gpu["idle_w"] == pytest.approx(50, rel=0.02)
    assert gpu["energy_j"] == pytest.approx(50 * gpu["window_s"], rel=0.02)
    assert gpu["num_frames"] == NUM_FRAMES - 5 - 1  # between the results after the warm-up
    assert gpu["j_per_frame"] == pytest.approx(50 / summary["fps"], rel=0.02)
    assert "energy on " in result.stdout
    near, far = (list(read_journal(journal_path(tmp_path / "out", rank))) for rank in (0, 1))
    idle = next(line for line in near if line["e"] == "idle")
    assert (idle["t"] - idle["b"]) / 1e9 == pytest.approx(IDLE_S, abs=0.5)
    assert idle["t"] < next(line["t"] for line in near if line["e"] == "stream")
    assert not [line for line in far if line["e"] in ("meter", "power")]
