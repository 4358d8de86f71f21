"""Settings that take turns from frame to frame with other engines and detectors than `test_adapt.py` has."""

from __future__ import annotations

import pytest
from adaptive_bundle import make_adaptive_bundle


@pytest.mark.mpi
def test_the_head_of_an_adaptive_run_may_get_its_images_as_jpeg(splitrail_run, tmp_path):
    make_adaptive_bundle(tmp_path / "bundle")
    outcome = splitrail_run(
        "--no-video", "--max-frames", "8", "--adapt-policy", "fixed:0.5,uint8",
        bundle=tmp_path / "bundle", placement="transformer", image_wire="jpeg",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.summary["counts"]["done"] == 8
    (edge, *_) = sorted(outcome.summary["edges"], key=lambda edge: edge["name"])
    assert edge["name"] == "0->1 jpeg"
