"""An EfficientDet streams like any other detector, with a fixed and with a slimmable compressor."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]


@pytest.mark.parametrize("widths", [(), (0.5, 1.0)])
def test_it_streams(splitrail_run, tmp_path, widths):
    from splitrail.models.export import export_bundle

    folder = tmp_path / "bundle"
    export_bundle(
        "efficientdet-d0", folder, size=(128, 128), bottleneck=10, widths=widths, overrides={"num_classes": 5}
    )
    outcomes = [
        splitrail_run(
            "--max-frames", "6", bundle=folder, placement=placement, wire=wire, score_threshold=0.3, out=placement
        )
        for placement, wire in (("full", "fp32"), ("split", "fp32"))
    ]
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
        assert outcome.summary["counts"]["done"] == 6
    one, other = ([frame["detections"] for frame in outcome.frames] for outcome in outcomes)
    assert one == other
    assert any(one)
    (edge,) = (edge for edge in outcomes[1].summary["edges"] if "bottleneck" in edge["name"])
    assert edge["bytes_per_frame"] == pytest.approx(4 * 10 * 16 * 16, abs=320)
