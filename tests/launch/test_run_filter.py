"""`splitrail run` with a neural filter: an empty frame ends at the edge, in order, and costs a header."""

import json

import cv2
import numpy as np
import pytest

from splitrail.launch.config import RunConfig
from splitrail.pipeline.errors import ConfigError
from splitrail.pipeline.message import HEADER_BYTES
from splitrail.stages.bundle import Bundle
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

NUM = 16
FULL = {"captured": NUM, "done": NUM, "empty": 0, "dropped": 0, "failed": 0, "unfinished": 0}
HALF = FULL | {"done": NUM // 2, "empty": NUM // 2}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """stem | filter | layers || transformer; even grey is empty."""
    folder = tmp_path_factory.mktemp("filtered") / "bundle"
    make_synthetic_bundle(folder, size=(64, 96), filter_threshold=0.1)
    return folder


@pytest.fixture(scope="module")
def half_empty(tmp_path_factory):
    """Images of which every odd one is even grey."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(NUM):
        image = np.full((96, 128, 3), 128, np.uint8)
        if number % 2 == 0:
            image = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            cv2.rectangle(image, (5 * number, 10), (5 * number + 30, 60), (40, 200, 10), -1)
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    return folder


def services(outcome):
    """Stage -> how many frames it worked on."""
    return {stage["name"]: stage["num"] for rank in outcome.summary["ranks"] for stage in rank["stages"]}


def features_edge(outcome):
    return next(edge for edge in outcome.summary["edges"] if "features" in edge["name"])


@pytest.mark.mpi
def test_empty_frames_end_at_the_edge(splitrail_run, filtered, half_empty):
    given = {"placement": "split", "wire": "fp32", "bundle": filtered, "source": half_empty}
    whole = splitrail_run("--no-filter", "--no-video", out="whole", **given)
    cut = splitrail_run("--no-video", out="cut", **given)
    assert (whole.code, cut.code) == (0, 0), (whole.err, cut.err)
    assert whole.summary["counts"] == FULL
    assert cut.summary["counts"] == HALF
    assert [frame["frame"] for frame in cut.frames] == list(range(NUM))
    assert [frame["fate"] for frame in cut.frames] == ["done", "empty"] * (NUM // 2)
    # What has an object is detected as without the filter, the rest not at all.
    for number, (a, b) in enumerate(zip(cut.frames, whole.frames, strict=True)):
        assert a["detections"] == (b["detections"] if number % 2 == 0 else [])
    assert sum(len(frame["detections"]) for frame in cut.frames) > NUM
    # The saved work, and the saved bytes: of an empty frame a header travels, and a header comes back.
    work = services(cut)
    assert (work["stem"], work["filter"], work["layers"], work["transformer"]) == (NUM, NUM, NUM // 2, NUM // 2)
    assert "filter" not in services(whole)
    assert services(whole)["layers"] == NUM
    edge = features_edge(cut)
    assert edge["num_messages"] == NUM // 2
    assert (
        edge["bytes_per_frame"] == features_edge(whole)["bytes_per_frame"] == features_edge(whole)["bytes_per_result"]
    )
    assert (edge["num_empty"], edge["bytes_per_result"]) == (NUM // 2, (edge["bytes_per_frame"] + HEADER_BYTES) / 2)
    saved = whole.summary["wire_proof"]["payload_bytes"] - cut.summary["wire_proof"]["payload_bytes"]
    assert saved >= NUM // 2 * (edge["bytes_per_frame"] - HEADER_BYTES)
    assert cut.summary["filter_threshold"] == 0.1
    assert whole.summary["filter_threshold"] is None


@pytest.mark.mpi
@pytest.mark.parametrize("placement", ["full", "transformer", "cut behind the stem"])
def test_every_placement_filters_alike(splitrail_run, filtered, half_empty, placement, tmp_path):
    if placement.startswith("cut"):
        # The filter on the edge, the rest of the head beside the tail: uint8 is made behind the filter, which reads float32.
        path = tmp_path / "stem.toml"
        path.write_text(
            'name = "stem"\nsegments = [{ rank = 0, stages = ["source", "preprocess", "stem", "filter"] },\n'
            '{ rank = 1, stages = ["layers", "tail", "postprocess"] }, { rank = 0, stages = ["sink"] }]\n'
        )
        placement = path
    given = {"bundle": filtered, "source": half_empty, "wire": "uint8" if placement != "full" else "fp32"}
    outcome = splitrail_run("--no-video", placement=placement, **given)
    assert outcome.code == 0, outcome.err
    assert outcome.summary["counts"] == HALF
    assert [frame["fate"] for frame in outcome.frames] == ["done", "empty"] * (NUM // 2)
    assert services(outcome)["layers"] == NUM // 2


@pytest.mark.mpi
def test_the_threshold_can_be_given(splitrail_run, filtered, half_empty):
    none = splitrail_run("--no-video", placement="full", bundle=filtered, source=half_empty, filter_threshold=0)
    assert none.summary["counts"] == FULL
    assert none.summary["filter_threshold"] == 0
    everything = splitrail_run(
        "--no-video", "--filter", placement="split", bundle=filtered, source=half_empty, filter_threshold=1, out="every"
    )
    assert everything.summary["counts"] == FULL | {"done": 0, "empty": NUM}


@pytest.mark.mpi
@pytest.mark.netns
def test_the_interfaces_send_less(splitrail_run, filtered, half_empty):
    from splitrail.launch.netns import TwoHosts
    from splitrail.pipeline.errors import HostError

    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    sent = {}
    for choice in ("--no-filter", "--filter"):
        outcome = splitrail_run(
            "--netns",
            "--no-video",
            choice,
            placement="split",
            bundle=filtered,
            source=half_empty,
            wire="fp32",
            link_rate="100mbit",
            out=choice.strip("-"),
        )
        assert outcome.code == 0, outcome.err
        sent[choice] = outcome.summary["wire_proof"]["interface_bytes"]
        features = features_edge(outcome)["bytes_per_frame"] - HEADER_BYTES
    assert sent["--filter"] <= sent["--no-filter"] - 0.9 * NUM // 2 * features


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--filter-threshold", "1.5"), "filter_threshold': input should be less than or equal to 1"),
        (("--filter-threshold", "-0.1"), "filter_threshold': input should be greater than or equal to 0"),
        (("--filter",), "this bundle has no neural filter; leave out --filter"),
        (("--filter-threshold", "0.5"), "this bundle has no neural filter"),
        (("--no-filter", "--filter-threshold", "0.5"), "leave one of them out"),
        (("--wire", "uint5"), "'wire': input should be 'fp32', 'fp16', 'uint8'"),
    ],
)
def test_bad_input_is_one_sentence(splitrail_run, arguments, message):
    outcome = splitrail_run(*arguments, placement="split")
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not outcome.folder.exists()


def test_a_bundle_with_a_filter_filters_unless_told_otherwise(filtered, bundle):
    config = RunConfig.check({"source": {"uri": "x"}, "out": "o"}, "here")
    assert config.is_filtered(Bundle.load(filtered))
    assert not config.is_filtered(Bundle.load(bundle))
    assert not config.model_copy(update={"filter": False}).is_filtered(Bundle.load(filtered))
    with pytest.raises(ConfigError, match="no neural filter"):
        Bundle.load(bundle).chain(is_filtered=True)
    assert json.loads(config.model_dump_json())["filter"] is None
