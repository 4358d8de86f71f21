"""Ten thousand frames through two ranks: none lost, doubled, out of order or changed, and memory stays."""

import json
import subprocess
import sys

import pytest

from splitrail.launch.bench_soak import MAX_GROWTH_BYTES


@pytest.mark.mpi
@pytest.mark.timeout(110)
def test_the_channel_carries_ten_thousand_frames_in_the_same_memory():
    # The ranks check number and payload of every frame and fail where one is missing, doubled, late or changed.
    command = [sys.executable, "-m", "splitrail", "bench", "overlap", "--preset", "endurance", "--overlaps", "full"]
    result = subprocess.run(
        [*command, "--repeats", "1", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert row["num_frames"] == 10_000
    assert row["interval"]["num"] == 9_999
    assert row["growth_mb"] * 1e6 <= MAX_GROWTH_BYTES
