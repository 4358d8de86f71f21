"""The channel over real ranks: every byte, every kind, every frame once, in order, and the end after a failure."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi

PROGRAM = Path(__file__).with_name("mpi_chain.py")
pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]


def chain(num_ranks, **options):
    ranks = [RankSpec(host=None, program=(sys.executable, str(PROGRAM), json.dumps(options)))] * num_ranks
    command = build_command(detect_mpi(), ranks)
    return subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_every_frame_crosses_the_chain_unchanged(num_ranks):
    result = chain(num_ranks, num=40)
    assert result.returncode == 0, result.stderr
    assert lines(result) == [{"FRAME": 32, "EMPTY": 4, "FAILED": 4}]


@pytest.mark.parametrize("overlap", ["naive", "blocking"])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_baselines_keep_the_same_contract(overlap, num_ranks):
    result = chain(num_ranks, num=40, overlap=overlap)
    assert result.returncode == 0, result.stderr
    assert lines(result) == [{"FRAME": 32, "EMPTY": 4, "FAILED": 4}]


def test_a_slow_receiver_holds_the_sender_up_and_loses_nothing():
    result = chain(2, num=100, slow_rank=1, bytes=2_000_000)
    assert result.returncode == 0, result.stderr
    assert lines(result) == [{"FRAME": 80, "EMPTY": 10, "FAILED": 10}]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_no_journal_line_is_lost_at_the_end(num_ranks):
    result = chain(num_ranks, num=10, pieces=25)
    assert result.returncode == 0, result.stderr
    assert {"num_pieces": 25 * (num_ranks - 1)} in lines(result)


@pytest.mark.parametrize(("fail_rank", "fail_how"), [(0, "raise"), (1, "raise"), (2, "raise"), (2, "callback")])
def test_a_failing_rank_ends_all_ranks_and_each_knows_the_first_error(fail_rank, fail_how):
    begin = time.monotonic()
    result = chain(3, num=400, fail_rank=fail_rank, fail_how=fail_how)
    assert result.returncode == 1
    firsts = {line["rank"]: line["first"] for line in lines(result)}
    assert set(firsts) == {0, 1, 2}
    for first in firsts.values():
        assert first["rank"] == fail_rank
        assert first["host"] == f"host{fail_rank}"
        assert "broken on purpose" in first["text"]
    assert time.monotonic() - begin < 30


def test_a_killed_rank_ends_the_job():
    result = chain(3, num=400, fail_rank=1, fail_how="kill")
    assert result.returncode != 0
    assert "FRAME" not in result.stdout
