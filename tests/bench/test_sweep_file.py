"""A sweep's file: what cells it makes, in which order they are run, and what is said of a file that does not fit."""

import itertools
from collections import Counter

import pytest

from splitrail.bench.sweep_cell import Cell
from splitrail.bench.sweep_file import Sweep, SweepError
from splitrail.launch.config import CONFIGS


def check(**raw):
    return Sweep.check({"base": {"bundle": "demo"}, **raw}, "file.toml", name="file")


def test_a_grid_is_every_combination_and_grids_add_up():
    sweep = check(
        grid=[
            {"placement": "full"},
            {"placement": "backbone", "wire": ["fp32", "fp16", "uint8"], "link_rate": ["1mbit", "10mbit"]},
            {"placement": ["full", "offload"], "threads": [0, 1]},
        ]
    )
    # 1 + 1 x 3 x 2 + 2 x 2, of which full with 0 threads was there already.
    assert len(sweep.cells) == 1 + 6 + 4 - 1
    assert Counter(cell.placement for cell in sweep.cells) == {"full": 2, "backbone": 6, "offload": 2}
    split = {(cell.wire, cell.link_rate) for cell in sweep.cells if cell.placement == "backbone"}
    assert split == set(itertools.product(["fp32", "fp16", "uint8"], ["1mbit", "10mbit"]))
    assert all(cell.bundle == "demo" for cell in sweep.cells)


def test_a_grid_says_otherwise_than_the_base():
    (cell,) = Sweep.check(
        {"base": {"bundle": "demo", "wire": "fp32"}, "grid": [{"wire": "uint8"}]}, "f", name="f"
    ).cells
    assert cell.wire == "uint8"


def test_a_grid_has_a_detector_in_place_of_the_base_s_bundle_and_the_other_way_round():
    grids = [{"placement": "full"}, {"detector": "detr-resnet-18", "cut": ["c5", "projection"]}]
    assert [(cell.bundle, cell.detector, cell.cut) for cell in check(grid=grids).cells] == [
        ("demo", "", ""), ("", "detr-resnet-18", "c5"), ("", "detr-resnet-18", "projection"),
    ]  # fmt: skip
    base = {"detector": "detr-resnet-18", "cut": "c5", "size": "64x64"}
    (cell,) = Sweep.check({"base": base, "grid": [{"bundle": "demo"}]}, "f", name="f").cells
    assert (cell.bundle, cell.detector, cell.cut, cell.size) == ("demo", "", "", "")


def test_every_round_has_every_cell_in_an_order_of_its_own_that_the_seed_decides():
    grid = [{"placement": "backbone", "link_rate": [f"{rate}mbit" for rate in range(1, 31)]}]
    sweep = check(grid=grid, repeats=3, seed=5)
    trials = sweep.trials()
    rounds = [trials[first : first + 30] for first in (0, 30, 60)]
    for number, made in enumerate(rounds, 1):
        assert {trial.cell for trial in made} == set(sweep.cells)
        assert {trial.repeat for trial in made} == {number}
    orders = [tuple(trial.cell for trial in made) for made in rounds]
    assert len({*orders, sweep.cells}) == 4
    assert check(grid=grid, repeats=3, seed=5).trials() == trials
    assert check(grid=grid, repeats=3, seed=6).trials() != trials
    # More repeats later leave the rounds before as they were.
    assert check(grid=grid, repeats=4, seed=5).trials()[:90] == trials


def test_quick_replaces_a_key_wherever_the_file_gives_it():
    raw = {
        "base": {"bundle": "demo", "frames": 1000},
        "repeats": 3,
        "grid": [{"placement": "full"}, {"placement": "backbone", "link_rate": ["1mbit", "2mbit", "3mbit"]}],
        "quick": {"repeats": 1, "frames": 10, "link_rate": ["1mbit", "3mbit"], "threads": 1},
    }
    whole, quick = (Sweep.check(raw, "f", name="f", quick=is_quick) for is_quick in (False, True))
    assert (whole.repeats, len(whole.cells), quick.repeats) == (3, 4, 1)
    # The cell without a link does not get one.
    assert [cell.link_rate for cell in quick.cells] == ["", "1mbit", "3mbit"]
    assert {(cell.frames, cell.threads) for cell in quick.cells} == {(10, 1)}
    assert {cell.frames for cell in whole.cells} == {1000}


def test_a_source_from_the_command_line_takes_the_place_of_all():
    raw = {"base": {"bundle": "demo", "source": "scenes"}, "grid": [{"placement": "full"}, {"source": ["a", "b"]}]}
    sweep = Sweep.check(raw, "f", name="f", source="clip.mp4")
    assert {cell.source for cell in sweep.cells} == {"clip.mp4"}


def test_weights_go_to_their_detector():
    raw = {"base": {"detector": ["detr-resnet-18", "detr-resnet-50"]}, "weights": {"detr-resnet-50": "hub"}}
    assert [cell.weights for cell in Sweep.check(raw, "f", name="f").cells] == ["", "hub"]


def test_folders_tell_cells_apart_and_stay_the_same():
    axes = {"wire": ["fp32", "fp16"], "frames": [10, 20], "overlap": ["full", "naive"], "link_rate": ["", "1mbit"]}
    folders = [cell.folder for cell in check(grid=[axes]).cells]
    assert len(set(folders)) == 16
    assert all("/" not in folder and len(folder) < 120 for folder in folders)
    assert folders == [cell.folder for cell in check(grid=[axes, {"placement": "full"}]).cells[:16]]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"repeat": 2}, ["unknown key 'repeat'", "did you mean 'repeats'?"]),
        ({"grid": [{"placment": "full"}]}, ["grid 1", "unknown key 'placment'", "'placement'"]),
        ({"grid": [{}, {"link-rate": "1mbit"}]}, ["grid 2", "'link_rate'"]),
        ({"quick": {"frame": 3}}, ["[quick]", "'frames'"]),
        ({"base": {"bundle": "demo", "weights": "x"}}, ["[base]", "unknown key 'weights'"]),
        ({"repeats": 0}, ["'repeats' must be a whole number from 1, not 0"]),
        ({"seed": "x"}, ["'seed' must be a whole number"]),
        ({"grid": []}, ["[[grid]]"]),
        ({"grid": [{"wire": []}]}, ["grid 1", "'wire' is an empty list"]),
        ({"grid": [{"threads": "two"}]}, ["grid 1", "'threads'", "integer"]),
        ({"grid": [{"threads": -1}]}, ["'threads'", "greater than or equal to 0"]),
        ({"grid": [{"encoding": "jpeg:101"}]}, ["'encoding' is raw, or jpeg:Q"]),
        ({"grid": [{"encoding": "png"}]}, ["'encoding' is raw, or jpeg:Q"]),
        ({"grid": [{"scenario": "camera"}]}, ["'rate_fps' is needed by the scenario camera"]),
        ({"grid": [{"rate_fps": 25}]}, ["only by it"]),
        ({"grid": [{"scenario": "server"}]}, ["'scenario'", "'camera'"]),
        ({"grid": [{"detector": "detr-resnet-50", "bundle": "demo"}]}, ["give either 'detector' or 'bundle'"]),
        ({"base": {}}, ["give either 'detector' or 'bundle'"]),
        ({"grid": [{"cut": "c5"}]}, ["a bundle has its own"]),
        ({"name": "a/b"}, ["'name'"]),
    ],
)
def test_a_file_that_does_not_fit_gets_one_sentence(raw, words):
    with pytest.raises(SweepError) as caught:
        check(**raw)
    text = str(caught.value)
    assert text.startswith("file.toml")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(SweepError, match="cannot be read"):
        Sweep.load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[[grid")
    with pytest.raises(SweepError, match="does not parse"):
        Sweep.load(tmp_path / "broken.toml")


def test_the_shipped_sweeps_are_the_thesis_and_the_rates():
    thesis = Sweep.load(CONFIGS / "thesis.toml")
    assert {(cell.placement, cell.detector) for cell in thesis.cells} == set(
        itertools.product(("full", "backbone", "transformer"), [f"detr-resnet-{depth}" for depth in (18, 34, 50)])
    )
    assert {cell.cut for cell in thesis.cells if cell.placement != "full"} == {"c5", "projection"}
    assert {(cell.frames, cell.size, cell.link_rate) for cell in thesis.cells} == {(1000, "800x1066", "1gbit")}
    rates = Sweep.load(CONFIGS / "link-rates.toml")
    assert {cell.encoding for cell in rates.cells if cell.placement == "offload"} == {
        "raw", "jpeg:50", "jpeg:75", "jpeg:90",
    }  # fmt: skip
    for bundle in ("demo", ""):
        own = [cell for cell in rates.cells if cell.bundle == bundle]
        assert {cell.wire for cell in own if cell.placement == "backbone"} == {"fp32", "fp16", "uint8"}
        assert {cell.placement for cell in own} == {"full", "backbone", "offload"}
    assert {"500kbit", "100mbit"} < {cell.link_rate for cell in rates.cells}
    for name in ("thesis", "link-rates"):
        quick = Sweep.load(CONFIGS / f"{name}.toml", quick=True)
        assert quick.repeats == 1
        assert all((cell.frames or 1000) <= 70 for cell in quick.cells)


def test_a_cell_knows_its_encoding_and_link():
    assert Cell(bundle="demo", encoding="jpeg:75").jpeg_quality == 75
    assert Cell(bundle="demo").jpeg_quality is None
    assert not Cell(bundle="demo").has_link
    assert Cell(bundle="demo", link_delay="5ms").has_link


def test_another_placement_file_is_another_cell(tmp_path):
    """A sweep that goes on must not take runs of the file as it was for runs of it as it is."""
    path = tmp_path / "own.toml"
    raw = {"grid": [{"placement": ["backbone", str(path)]}]}
    path.write_text("segments = [{ rank = 0, stages = ['source'] }]\n")
    shipped, before = check(**raw).cells
    assert check(**raw).cells[1].folder == before.folder
    path.write_text("segments = [{ rank = 1, stages = ['source'] }]\n")
    other = check(**raw).cells
    assert other[0].folder == shipped.folder
    assert other[1].folder != before.folder
    assert other[1].folder[:-10] == before.folder[:-10]
    path.unlink()
    assert check(**raw).cells[1].folder not in (before.folder, other[1].folder)


@pytest.mark.parametrize("key", ["detector", "bundle", "placement", "wire"])
@pytest.mark.parametrize("value", [{"name": "x"}, ["x", {"name": "x"}], [["x"]]])
def test_a_table_where_a_text_belongs_is_named(key, value):
    with pytest.raises(SweepError, match=rf"grid 1: '{key}': input should be"):
        check(grid=[{key: value}], weights={"x": "hub"})
