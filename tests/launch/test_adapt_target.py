"""A target that is not met is told while the run goes on, and by everything that is made of it afterwards."""

from __future__ import annotations

import pytest
from adaptive_bundle import make_adaptive_bundle

from splitrail.bench.finished_run import FinishedRun
from splitrail.bench.report_tables import run_facts


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("target", "event", "words"),
    [
        ("target-delay-ms=0.01", "target_missed", "1 uint8 does not meet target-delay-ms=0.01: it makes "),
        ("target-fps=90", "source_slow", "the source gives "),
    ],
)
def test_a_fixed_setting_that_misses_is_told(splitrail_run, tmp_path, target, event, words):
    make_adaptive_bundle(tmp_path / "bundle")
    outcome = splitrail_run(
        "--no-video", "--loop", "--max-frames", "100", "--rate", "30", "--adapt", target, "--adapt-policy", "fixed:1,uint8",
        bundle=tmp_path / "bundle",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.err.count(f"note: {words}") == 1
    adapt = outcome.summary["adapt"]
    assert (adapt["target"], adapt["policy"]) == (target, "fixed:1,uint8")
    assert adapt[event]["why"].startswith(words)
    assert 50 <= adapt[event]["frame"] < 100
    assert words in " ".join(outcome.out.split())
    assert any(words in sentence for sentence in run_facts(FinishedRun.load(outcome.folder)))
