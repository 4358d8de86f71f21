"""The channel overlaps on a real link, and the naive loop does not: a ratio within one run."""

import json
import subprocess
import sys

import pytest

from splitrail.launch.netns import TwoHosts
from splitrail.pipeline.errors import HostError


def bench(*arguments, timeout=150):
    command = [sys.executable, "-m", "splitrail", "bench", "overlap", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.mpi
@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_full_is_much_faster_than_naive_on_a_gigabit_link():
    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    result = bench("--netns", "--engines", "sleep", "--overlaps", "full,naive", "--num-frames", "40", "--repeats", "3")
    assert result.returncode == 0, result.stderr
    rows = {row["overlap"]: row for row in json.loads(result.stdout)}
    assert rows["full"]["times_naive"] >= 1.6
    for row in rows.values():
        # Balanced, and over the wire: else the ratio says nothing.
        assert row["wire_ms"] == pytest.approx(row["edge_ms"], rel=0.15)
        assert row["interface_bytes"] >= 40 * row["frame_bytes"]
        # By construction nothing beats the ideal, but for the error of the wire's measurement.
        assert row["efficiency"] <= 1.05


@pytest.mark.mpi
@pytest.mark.timeout(90)
def test_every_engine_and_channel_runs_without_a_network():
    result = bench("--num-frames", "8", "--stage-ms", "10", "--frame-bytes", "100000")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {(row["engine"], row["overlap"]) for row in rows} == {
        (engine, overlap) for engine in ("sleep", "native", "mix") for overlap in ("full", "naive", "blocking")
    }
    for row in rows:
        slowest = max(row["edge_ms"], row["wire_ms"], row["tail_ms"])
        others = row["edge_ms"] + row["wire_ms"] + row["tail_ms"] - slowest
        assert row["ideal_ms"] == pytest.approx((8 * slowest + others) / 8, rel=1e-3)
        assert row["efficiency"] == pytest.approx(row["ideal_ms"] / row["measured_ms"], rel=1e-2)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--engines=warp", "--engines 'warp' is unknown"),
        ("--overlaps=half", "'half'"),
        ("--num-frames=0", "at least 1"),
    ],
)
def test_bad_options_are_named(option, text):
    result = bench(option)
    assert result.returncode == 2
    assert text in result.stderr
