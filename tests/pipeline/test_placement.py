"""Placements: the lanes that follow, moving source and sink, and what is refused."""

from pathlib import Path

import pytest

import splitrail
from splitrail.launch.config import CONFIGS, load_placement
from splitrail.pipeline.errors import ConfigError
from splitrail.pipeline.placement import Placement

TWO = ["backbone", "transformer"]


def shape(placement, graphs=TWO):
    return [(lane.rank, *lane.stages) for lane in placement.lanes(graphs)]


def test_backbone_captures_computes_and_writes_in_lanes_of_their_own():
    assert shape(load_placement("backbone")) == [
        (0, "source", "preprocess"),
        (0, "backbone"),
        (1, "transformer"),
        (1, "postprocess"),
        (0, "sink"),
    ]


def test_full_is_one_rank_with_three_lanes():
    placement = load_placement("full")
    assert placement.num_ranks == 1
    assert shape(placement) == [
        (0, "source", "preprocess"),
        (0, "backbone", "transformer"),
        (0, "postprocess", "sink"),
    ]


def test_transformer_sends_frames_out_and_gets_features_back():
    placement = load_placement("transformer")
    assert shape(placement) == [
        (0, "source", "preprocess"),
        (0,),  # the queue between capture and the link, where a live source drops
        (1, "backbone"),
        (0, "transformer"),
        (0, "postprocess", "sink"),
    ]
    assert shape(placement.with_source(1)) == [
        (1, "source", "preprocess"),
        (1, "backbone"),
        (0, "transformer"),
        (0, "postprocess"),
        (1, "sink"),
    ]


def test_the_sink_may_sit_on_any_rank():
    placement = load_placement("backbone").with_sink(1)
    assert placement.sink_rank == 1
    assert shape(placement)[-1] == (1, "postprocess", "sink")
    assert shape(load_placement("full").with_sink(0)) == shape(load_placement("full"))


def test_three_ranks_follow_from_the_file():
    placement = load_placement("three-ranks")
    assert placement.num_ranks == 3
    assert shape(placement, ["backbone", "encoder", "decoder"])[1:4] == [
        (0, "backbone"),
        (1, "encoder"),
        (2, "decoder"),
    ]


@pytest.mark.parametrize("name", ["full", "backbone", "transformer", "offload"])
def test_lanes_are_chained_without_gaps(name):
    lanes = load_placement(name).lanes(TWO)
    assert lanes[0].inbound is None
    assert lanes[-1].outbound is None
    for index, lane in enumerate(lanes):
        assert lane.inbound == (index - 1 if index else None)
        assert lane.outbound == (index + 1 if index < len(lanes) - 1 else None)
        assert lane.name


def test_a_bundle_without_a_cut_cannot_be_split():
    with pytest.raises(ConfigError, match="export the bundle with --cut"):
        load_placement("backbone").lanes(["detector"])
    assert shape(load_placement("full"), ["detector"])[1] == (0, "detector")


def test_graphs_out_of_order_are_refused():
    placement = Placement.from_mapping(
        {"name": "x", "segments": [{"rank": 0, "stages": ["source", "preprocess", "transformer", "backbone", "sink"]}]},
        "x",
    )
    with pytest.raises(ConfigError, match="in this order"):
        placement.lanes(TWO)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"name": "x", "segments": [], "extra": 1}, "unknown key 'extra'"),
        ({"name": "x"}, "'segments' must be a list"),
        ({"segments": [{"rank": 0, "stages": ["source", "sink"], "host": "a"}]}, "unknown key 'host'"),
        ({"segments": [{"rank": True, "stages": ["source", "sink"]}]}, "whole number"),
        ({"segments": [{"rank": 1, "stages": ["source", "sink"]}]}, "without gaps"),
        ({"segments": [{"rank": 0, "stages": ["sink"]}]}, "start with 'source'"),
        ({"segments": [{"rank": 0, "stages": ["source"]}]}, "end with 'sink'"),
        ({"segments": [{"rank": 0, "stages": "source"}]}, "list of stage names"),
        ({"segments": ["source"]}, "must be a table"),
    ],
)
def test_what_does_not_fit_is_named(raw, text):
    with pytest.raises(ConfigError, match=text):
        Placement.from_mapping(raw, "here")


@pytest.mark.parametrize(
    "stages",
    [
        ["source", "network", "postprocess", "sink"],
        ["source", "preprocess", "network", "sink"],
        ["source", "preprocess", "postprocess", "network", "sink"],
        ["source", "encode-jpeg", "preprocess", "network", "postprocess", "sink"],
    ],
)
def test_a_chain_that_could_not_compute_is_refused(stages):
    placement = Placement.from_mapping({"name": "x", "segments": [{"rank": 0, "stages": stages}]}, "x")
    with pytest.raises(ConfigError, match="around the graphs it must be"):
        placement.lanes(["backbone", "transformer"])


def test_a_head_may_be_several_graphs():
    graphs = ["stem", "filter", "layers", "transformer"]
    lanes = load_placement("split").lanes(graphs, 3)
    assert [(lane.rank, lane.name) for lane in lanes] == [
        (0, "source+preprocess"),
        (0, "stem+filter+layers"),
        (1, "transformer"),
        (1, "postprocess"),
        (0, "sink"),
    ]
    assert [lane.name for lane in load_placement("full").lanes(graphs, 3)][1] == "stem+filter+layers+transformer"


def test_an_unknown_placement_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"backbone, full, offload, .*split, three-ranks, transformer"):
        load_placement("nowhere")


def test_the_shipped_placements_lie_in_the_package():
    assert Path(splitrail.__file__).parent / "launch" / "configs" == CONFIGS
