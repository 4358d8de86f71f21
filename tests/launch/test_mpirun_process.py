import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from splitrail.launch.abort_text import AbortText
from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi
from splitrail.launch.mpirun_process import MpirunProcess
from splitrail.pipeline.errors import HostError

PROGRAM = str(Path(__file__).with_name("signal_program.py"))
RULE = "-" * 74


def abort_text(*paragraphs):
    text = AbortText()
    for paragraph in paragraphs:
        for line in (RULE, *paragraph.splitlines(), RULE):
            assert text.is_chatter(line)
    return text


@pytest.mark.parametrize(
    ("paragraphs", "sentence"),
    [
        (
            ["prterun noticed that process rank 1 with PID 30 on node far exited on\nsignal 9 (Killed)."],
            "rank 1 on host far ended on signal 9 (Killed)",
        ),
        (
            [
                "Primary job  terminated normally, but 1 process returned\na non-zero exit code. Per user-direction, ...",
                "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 11 (Segmentation fault).",
            ],
            "rank 1 on host vm ended on signal 11 (Segmentation fault)",
        ),
        (
            [
                "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n  Proc: [[1,1],1]\n  Errorcode: 3\n",
                'prterun has exited due to process rank 1 with PID 0 on node vm calling\n"abort". This may have caused',
            ],
            "rank 1 on host vm ended the run with MPI_Abort",
        ),
        (
            [
                "prterun detected that one or more processes exited with non-zero status,\nthus causing the job to be "
                "terminated. The first process to do so was:\n\n   Process name: [prterun-vm-8623@1,0]\n   Exit code:    5"
            ],
            "rank 0 ended with exit code 5",
        ),
        (
            [
                "prterun was unable to launch the specified application as it could not\naccess an executable:\n\n"
                "   Executable: /no/python\n   Node: vm\n\nwhile attempting to start process rank 0."
            ],
            "host vm cannot execute /no/python; name its interpreter with python= in the hostfile",
        ),
        (
            [
                "A daemon failed to report back after being spawned. This\n\n  Local host:    a\n  Remote host:   b\n  Daemon"
            ],
            "host b does not answer, or cannot start Open MPI's daemon; check it with 'splitrail doctor'",
        ),
        (
            [
                "PRTE has lost communication with a remote daemon.\n\n  HNP daemon   : [prterun-a-1@0,0] on node a\n"
                "  Remote daemon: [prterun-a-1@0,1] on node b\n\nThis is usually"
            ],
            "host b was lost during the run; check it with 'splitrail doctor'",
        ),
        (
            ["ORTE was unable to reliably start one or more daemons.\nThis usually is caused by:"],
            "a host does not answer, or cannot start Open MPI's daemon; check it with 'splitrail doctor'",
        ),
        (["Something of a later version: it\nis unknown. More."], "Something of a later version"),
        ([], None),
    ],
)
def test_open_mpi_is_translated_into_one_sentence(paragraphs, sentence):
    assert abort_text(*paragraphs).sentence() == sentence


def test_the_lines_of_ranks_are_not_taken_for_those_of_open_mpi():
    text = AbortText()
    assert not text.is_chatter("rank 1 on host far: the graph is damaged")
    assert text.is_chatter("[vm:05633] *** Process received signal ***")
    assert text.is_chatter("mpirun: Forwarding signal 10 to job")
    assert not text.is_chatter("----")
    assert text.sentence() is None


def test_a_line_of_dashes_from_a_rank_does_not_swallow_what_follows():
    text = AbortText()
    swallowed = [text.is_chatter(line) for line in [RULE, *(f"line {n}" for n in range(100))]]
    assert swallowed.count(True) < 50
    assert swallowed[-1] is False


class Job:
    """An mpirun of two ranks here, with what they said."""

    def __init__(self, tmp_path, verb, program=PROGRAM):
        self.said, self.errors = [], []
        self.log_path = tmp_path / "mpirun.log"
        ranks = [RankSpec(None, (sys.executable, "-m", "mpi4py", program, verb))] * 2
        command = build_command(detect_mpi(), ranks)
        self.process = MpirunProcess(command, self.take, log_path=self.log_path)

    def take(self, line, is_error):
        (self.errors if is_error else self.said).append(line)

    def ranks(self):
        """The process ids by rank, once both have said theirs."""
        deadline = time.monotonic() + 30
        while len(self.said) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return {line["rank"]: line["pid"] for line in map(json.loads, self.said[:2])}


def gone(*pids, within_s=1.0):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.mpi
class TestJob:
    def test_a_graceful_stop_reaches_every_rank(self, tmp_path):
        job = Job(tmp_path, "complain")
        with job.process as process:
            job.ranks()
            assert process.failure() is None
            process.stop_gracefully()
            assert process.wait(30) == 0
        assert {(line["rank"], line["stopped"]) for line in map(json.loads, job.said[2:])} == {(0, True), (1, True)}
        assert job.errors == ["rank 1 has a complaint"]
        assert process.failure() is None

    def test_a_killed_rank_ends_the_job_and_is_named(self, tmp_path):
        job = Job(tmp_path, "wait")
        with job.process as process:
            pids = job.ranks()
            os.kill(pids[1], signal.SIGKILL)
            assert process.wait(10) not in (0, None)
            assert gone(*pids.values(), process.pid)
        assert process.failure() == f"rank 1 on host {os.uname().nodename} ended on signal 9 (Killed)"
        assert job.errors == []
        assert "noticed that process rank 1" in job.log_path.read_text()

    @pytest.mark.parametrize(("verb", "code"), [("abort", 3), ("exit", 5)])
    def test_the_exit_code_of_a_rank_comes_through(self, tmp_path, verb, code):
        job = Job(tmp_path, verb)
        with job.process as process:
            assert process.wait(30) == code
        assert process.failure().startswith("rank 1 ")

    def test_wait_has_a_limit_and_leaving_the_block_ends_everything(self, tmp_path):
        job = Job(tmp_path, "wait")
        with job.process as process:
            pids = job.ranks()
            assert process.wait(0.05) is None
        assert gone(*pids.values(), process.pid)

    def test_ranks_that_outlive_a_killed_mpirun_are_found(self, tmp_path):
        job = Job(tmp_path, "wait")
        with job.process as process:
            pids = job.ranks()
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
            assert gone(*pids.values())
        assert not (Path(tempfile.gettempdir()) / f"ompi.{process.pid}").exists()
        assert process.failure().startswith("mpirun ended on signal 9 (Killed); what it said is in ")

    def test_a_program_that_is_missing_is_named(self, tmp_path):
        lines = []
        command = build_command(detect_mpi(), [RankSpec(None, ("/no/such/python",))] * 2)
        with MpirunProcess(command, lambda line, _: lines.append(line)) as process:
            assert process.wait(30) not in (0, None)
        assert "cannot execute /no/such/python" in process.failure()
        assert lines == []

    def test_a_killed_owner_leaves_no_rank_behind(self, tmp_path):
        owner = tmp_path / "owner.py"
        owner.write_text(
            "import sys\n"
            "from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi\n"
            "from splitrail.launch.mpirun_process import MpirunProcess\n"
            f"ranks = [RankSpec(None, (sys.executable, {PROGRAM!r}, 'wait'))] * 2\n"
            "process = MpirunProcess(build_command(detect_mpi(), ranks), lambda line, _: print(line, flush=True))\n"
            "process.wait()\n"
        )
        process = subprocess.Popen([sys.executable, str(owner)], stdout=subprocess.PIPE, text=True)
        pids = [json.loads(process.stdout.readline())["pid"] for _ in range(2)]
        process.kill()
        process.wait()
        process.stdout.close()
        assert gone(*pids, within_s=8)


def test_a_command_that_is_not_there_is_refused():
    with pytest.raises(HostError, match="/no/mpirun cannot be started"):
        MpirunProcess(["/no/mpirun"], lambda line, _: None)
