"""The embedded detectors: whole, small, and measured."""

from pathlib import Path

import pytest

from splitrail.stages.bundle import Bundle

FOLDER = Path(__file__).parents[1] / "bundles"
EMBEDDED = sorted(path.parent for path in FOLDER.glob("*/bundle.json"))


def test_there_are_a_plain_an_adaptive_one_and_one_with_a_bottleneck():
    assert [folder.name for folder in EMBEDDED] == ["adaptive", "bottleneck", "demo"]


@pytest.mark.parametrize("folder", EMBEDDED, ids=lambda folder: folder.name)
def test_it_is_whole_small_and_trained(folder):
    bundle = Bundle.load(folder)
    named = {"bundle.json", *bundle.checksums()}
    assert {path.name for path in folder.iterdir()} == named
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000
    assert bundle.trained


def test_the_adaptive_one_knows_how_right_it_is_with_every_setting():
    bundle = Bundle.load(FOLDER / "adaptive")
    assert len(bundle.widths) >= 3
    split = {(row.width, row.wire): row for row in bundle.accuracy if row.way == "split"}
    assert set(split) == {(width, wire) for width in bundle.widths for wire in ("fp16", "uint8", "uint4")}
    narrow, wide = split[bundle.widths[0], "uint4"], split[1.0, "fp16"]
    assert narrow.bytes_per_frame < wide.bytes_per_frame / 20
    assert narrow.box_map is not None
    assert wide.box_map is not None
    assert narrow.box_map < wide.box_map


def test_the_one_with_a_bottleneck_has_a_filter_and_sends_a_sixteenth():
    bottleneck, plain = Bundle.load(FOLDER / "bottleneck"), Bundle.load(FOLDER / "demo")
    assert bottleneck.filter is not None
    assert 0 < bottleneck.filter.threshold < 1

    sent = [
        tensor.shape
        for bundle in (plain, bottleneck)
        for tensor in bundle.stages[bundle.num_head_stages - 1].outputs
        if tensor.name.endswith("_uint8")
    ]
    assert sent == [(1, 128, 12, 16), (1, 8, 12, 16)]
