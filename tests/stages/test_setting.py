"""Which settings a bundle offers, in which order, and what its table says of them."""

import pytest
from adaptive_bundle import make_adaptive_bundle

from splitrail.pipeline.errors import BundleError, ConfigError
from splitrail.stages.bundle import Bundle, MeasuredAccuracy
from splitrail.stages.setting import settings_of, with_accuracy
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory):
    return make_adaptive_bundle(tmp_path_factory.mktemp("bundle") / "adaptive")


def test_settings_come_from_the_widest_to_the_narrowest_with_the_tables_numbers(adaptive):
    settings = settings_of(adaptive)
    assert [setting.name for setting in settings] == [
        f"{width} {wire}" for width in ("1", "0.5", "0.25") for wire in ("fp16", "uint8", "uint4")
    ]
    assert settings[0].accuracy == pytest.approx(0.42)
    assert settings[0].bytes_per_frame == 16 * 8 * 12 * 2
    assert settings[-1].bytes_per_frame == 16 * 8 * 12 * 0.25 * 0.5


def test_ways_and_wires_are_chosen(adaptive):
    assert [s.name for s in settings_of(adaptive, ("offload",))] == ["offload q90", "offload q50"]
    local = settings_of(adaptive, ("local",))
    assert [(s.name, s.accuracy) for s in local] == [("local 1", 0.425), ("local 0.5", None), ("local 0.25", None)]
    assert [s.name for s in settings_of(adaptive, ("split",), ("uint8",))] == ["1 uint8", "0.5 uint8", "0.25 uint8"]
    # The order does not depend on how the ways are spelled: all ranks count alike.
    assert settings_of(adaptive, ("offload", "split")) == settings_of(adaptive, ("split", "offload"))


def test_only_what_was_measured_can_be_chosen_by_its_accuracy(adaptive):
    known = with_accuracy(settings_of(adaptive, ("local", "offload")), "b")
    assert [setting.name for setting in known] == ["local 1", "offload q90", "offload q50"]
    with pytest.raises(BundleError, match="splitrail evaluate the-bundle --all-settings --record"):
        with_accuracy(settings_of(adaptive, wires=("uint6",)), "the-bundle")


def test_the_last_measurement_counts_and_one_with_a_filter_does_not(adaptive):
    row = {"wire": "fp16", "data": "d", "num_images": 1, "bytes_per_frame": 7}
    rows = [MeasuredAccuracy(box_map=0.1, **row), MeasuredAccuracy(box_map=0.2, **row)]
    rows.append(MeasuredAccuracy(box_map=0.9, filter_threshold=0.1, **row))
    (setting, *_) = settings_of(adaptive.model_copy(update={"accuracy": tuple(rows)}))
    assert (setting.name, setting.accuracy) == ("1 fp16", 0.2)


def test_a_bundle_without_a_table_offers_the_usual_ones(tmp_path):
    make_synthetic_bundle(tmp_path)
    assert [s.name for s in settings_of(Bundle.load(tmp_path))] == ["1 fp16", "1 uint8", "1 uint4"]
    assert [s.jpeg_quality for s in settings_of(Bundle.load(tmp_path), ("offload",))] == [90, 75, 50]


def test_a_bundle_without_a_cut_has_nothing_to_adapt(tmp_path):
    with pytest.raises(ConfigError, match="nothing to adapt"):
        settings_of(make_synthetic_bundle(tmp_path, cuts=0))
