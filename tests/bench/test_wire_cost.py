"""The cost of wire types on a bundle's own features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splitrail.bench.wire_cost import wire_costs
from splitrail.launch.verbs import app
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.scene_source import open_scenes
from splitrail.stages.source import SourceOptions
from splitrail.stages.synthetic_bundle import make_synthetic_bundle
from splitrail.stages.wire import WIRES, WireForm

NUM_ELEMENTS = 16 * 8 * 12


def test_every_wire_type_is_weighed_and_narrower_ones_are_less_exact(tmp_path: Path) -> None:
    make_synthetic_bundle(tmp_path, filter_threshold=0.1)
    source = open_scenes("seed=1,size=96x128", SourceOptions())
    costs = {cost.wire: cost for cost in wire_costs(tmp_path, source, 3, WIRES)}
    source.close()
    assert tuple(costs) == WIRES
    for wire, cost in costs.items():
        form = WireForm.of(wire)
        assert cost.num_frames == 3
        if not form.is_compressed:
            exact = NUM_ELEMENTS * form.bits // 8
            # Behind the codes: scales, zero points and shape, each at a multiple of 64 bytes.
            assert exact <= cost.bytes_per_frame <= exact + 5 * 16 + 4 * 64
        assert cost.share_of_fp32 == pytest.approx(cost.bytes_per_frame / (4 * NUM_ELEMENTS), rel=1e-3)
        assert min(cost.encode_ms, cost.decode_ms) >= 0
        if wire.endswith("+zstd"):
            plain = costs[wire.removesuffix("+zstd")]
            assert cost.relative_error == plain.relative_error
    assert costs["fp32"].relative_error == 0
    errors = [costs[wire].relative_error for wire in ("fp16", "uint8", "uint6", "uint4")]
    assert errors == sorted(errors)
    assert len(set(errors)) == 4


def test_one_graph_and_no_frame_are_refused(tmp_path: Path) -> None:
    make_synthetic_bundle(tmp_path, cuts=0)
    source = open_scenes("seed=1,size=96x128", SourceOptions())
    with pytest.raises(ConfigError, match="is one graph"):
        wire_costs(tmp_path, source, 3, ["fp32"])
    source.close()


def test_the_verb(tmp_path: Path) -> None:
    make_synthetic_bundle(tmp_path / "b")
    words = ["bench", "wire", "--bundle", str(tmp_path / "b"), "--source", "scenes:size=96x128", "--num-frames", "2"]
    result = CliRunner().invoke(app, [*words, "--wires", "uint8,uint4+zstd", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["wire"], row["num_frames"]) for row in rows] == [("uint8", 2), ("uint4+zstd", 2)]
    wrong = CliRunner().invoke(app, [*words, "--wires", "uint5"])
    assert isinstance(wrong.exception, ConfigError)
    assert "choose among fp32" in str(wrong.exception)
