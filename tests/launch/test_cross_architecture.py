"""One run over two hosts of two architectures: the edge is aarch64, emulated, its mpirun as well; the workstation is x86_64.

`tests/arch/prepare.sh` makes the edge. The same run with x86_64 on both sides is what it is compared with.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from splitrail.launch.config import RunConfig
from splitrail.launch.mpirun import MpiInstallation, RankSpec, build_command, detect_mpi
from splitrail.launch.netns import TwoHosts
from splitrail.pipeline.errors import HostError

pytestmark = [pytest.mark.arch, pytest.mark.mpi, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

ARCH = Path(__file__).parent.parent / "arch"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
"""The user's own, before the tests of this folder get one of theirs."""
NUM_FRAMES = 12
_LIMIT_S = 400
"""Emulated start-up is 10 s of work, on a machine that may be busy."""


@pytest.fixture(scope="module")
def edge() -> Path:
    """The prefix of the emulated host: its bin has python and mpirun."""
    if platform.machine() != "x86_64":
        pytest.skip(f"this machine is {platform.machine()}; the emulated edge is for x86_64")
    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    folder = Path(os.environ.get("SPLITRAIL_ARCH_ROOT") or CACHE / "splitrail" / "arch")
    if not (folder / "ready").exists():
        pytest.skip(f"no emulated edge in {folder}; make it with ./tests/arch/prepare.sh")
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("qemu-aarch64-static is missing; install qemu-user-static")
    return folder.resolve() / "prefix"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the graph's own size without loss: both machines see the same pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 60, (64, 96, 3), np.uint8)
    for frame in range(NUM_FRAMES):
        image = noise.copy()
        cv2.rectangle(image, (5 * frame, 5), (5 * frame + 25, 50), (40, 200, 20 * frame), -1)
        cv2.imwrite(str(folder / f"{frame:03}.png"), image)
    return folder


def run(out: Path, bundle: Path, pictures: Path, engine: str, edge: Path | None) -> tuple[list[str], list[dict]]:
    """The machine of each rank by its own record, and the detections by frame. `edge` None: x86_64 on both sides."""
    mpi = detect_mpi()
    python = sys.executable
    if edge is not None:
        mpi, python = MpiInstallation(edge / "bin" / "mpirun", mpi.version), str(edge / "bin" / "python")
    out.mkdir()
    with TwoHosts(link_rate="100mbit", hide=[out]) as two:
        config = RunConfig.check(
            {
                "source": {"uri": str(pictures)},
                "sink": {"video": False},
                "out": str(out),
                "bundle": str(bundle),
                "placement": "backbone",
                "engine": engine,
                "threads": 1,
                "wire": "fp16",
                "score_threshold": 0.1,
                "hosts": ["edge", "workstation"],
                "cidr": two.network,
                "payload_crc": True,
                "stall_timeout_s": 200,
            },
            "test",
        )
        (out / "run.json").write_text(config.model_dump_json())
        # Threads of BLAS that wait for each other are what emulation does worst.
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        program = (str(ARCH / "rank_program.py"), "rank")
        command = build_command(
            mpi,
            [
                RankSpec("edge", (python, *program, "--config", str(out / "run.json")), one),
                RankSpec("workstation", (sys.executable, *program), one),
            ],
            network=two.network,
            agent=two.agent,
            prefix=sys.prefix,
        )
        result = subprocess.run(two.near(command), capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        sent = two.tx_bytes()["edge"]
    assert result.returncode == 0, result.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["done"] == NUM_FRAMES
    assert sent >= summary["wire_proof"]["payload_bytes"] > 0
    begins = [json.loads((out / f"journal-rank{rank}.jsonl").read_text().splitlines()[0]) for rank in (0, 1)]
    assert [begin["engine"] for begin in begins] == [engine, engine]
    frames = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    return [begin["environment"]["machine"] for begin in begins], sorted(frames, key=lambda frame: frame["frame"])


@pytest.mark.parametrize("engine", ["plain", "onnxruntime"])
def test_an_aarch64_edge_gives_what_an_x86_64_edge_gives(
    edge: Path, bundle: Path, pictures: Path, tmp_path: Path, engine: str
) -> None:
    machines, mixed = run(tmp_path / "mixed", bundle, pictures, engine, edge)
    assert machines == ["aarch64", "x86_64"]
    machines, same = run(tmp_path / "same", bundle, pictures, engine, None)
    assert machines == ["x86_64", "x86_64"]
    num_detections = 0
    for ours, theirs in zip(mixed, same, strict=True):
        assert ours["frame"] == theirs["frame"]
        assert [d["label"] for d in ours["detections"]] == [d["label"] for d in theirs["detections"]]
        for one, other in zip(ours["detections"], theirs["detections"], strict=True):
            num_detections += 1
            assert one["score"] == pytest.approx(other["score"], abs=2e-3)
            assert one["box"] == pytest.approx(other["box"], abs=0.2)
    assert num_detections > NUM_FRAMES
