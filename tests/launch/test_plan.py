"""`splitrail plan`: what it says of published hosts, of a bundle, and of what does not fit."""

import json

import pytest
from run_support import splitrail

from splitrail.bench.planner import Crossing, Link, transfer_ms
from splitrail.bench.profile import DetectorTimes, HostProfile, ImageFacts, StageTime
from splitrail.bench.profile_measure import PACKED
from splitrail.launch.plan import Plan
from splitrail.pipeline.message import HEADER_BYTES
from splitrail.stages.bundle import Bundle, MeasuredAccuracy


def published(detector, edge, workstation, mbit, *, ideal=True):
    share = {"tcp_share": 1.0, "poll_ms": 0.0} if ideal else {}
    return Plan.open((edge, workstation), Link(mbit * 1e6, **share), None, detector)


def rows_of(plan):
    return {row.candidate.label: row.forecast for row in plan.rows()[0]}


# Titarsolej 2021


@pytest.mark.parametrize(("depth", "bound_fps", "full_fps"), [(50, 47.6, 25.0), (34, 83.3, 32.3)])
def test_the_thesis_would_reach_the_pace_of_its_backbone_where_the_link_hides(depth, bound_fps, full_fps):
    rows = rows_of(published(f"detr-resnet-{depth}", "thesis-tx2", "thesis-workstation", 1000, ideal=False))
    assert rows["backbone projection fp32"].fps == pytest.approx(bound_fps, abs=0.05)
    assert rows["backbone projection fp32"].bottleneck == "host 0: backbone"
    assert rows["full on edge"].fps == pytest.approx(full_fps, abs=0.05)
    # With C5 in fp32, as it was cut, gigabit does not hide.
    assert rows["backbone c5 fp32"].bottleneck == "link from host 0"


@pytest.mark.parametrize(("depth", "measured_fps"), [(50, 30.3), (34, 41.6)])
def test_what_the_thesis_measured_is_the_sum_and_not_the_slowest_part(depth, measured_fps):
    plan = published(f"detr-resnet-{depth}", "thesis-tx2", "thesis-workstation", 1000)
    backbone, transformer = (profile.detector(plan.detector).stages for profile in plan.profiles)
    nothing_hidden = 1e3 / (backbone["backbone"].solo_ms + transformer["transformer"].solo_ms)
    assert nothing_hidden == pytest.approx(measured_fps, abs=0.1)


@pytest.mark.parametrize("depth", [50, 34])
def test_what_travels_in_the_thesis_follows_from_the_detector(depth):
    pytest.importorskip("torch")
    from splitrail.models.counts import wire_shapes
    from splitrail.models.detr import DetrConfig

    shapes = wire_shapes(DetrConfig(depth=depth), (800, 1066))
    cuts = HostProfile.load("thesis-tx2").detector(f"detr-resnet-{depth}").cuts
    assert {cut.name: cut.shape for cut in cuts} == {name: shapes[name] for name in ("c5", "projection")}


# Matsubara and Levorato 2020

TABLE_II = {  # offload at 5 Mbit/s, s
    "faster-rcnn": (0.456, 0.462, 0.472, 0.489),
    "mask-rcnn": (0.458, 0.4832, 0.4904, 0.4897),
    "keypoint-rcnn": (0.469, 0.473, 0.481, 0.498),
}
DEPTHS = (18, 34, 50, 101)


def gains(detector, mbit):
    """Gain of the split over local computing and over offloading."""
    rows = rows_of(published(detector, "ghnd-tx2", "ghnd-rtx-2080-ti", mbit))
    split = rows["backbone bottleneck uint8"].delay_ms
    return rows["full on edge"].delay_ms / split, rows["offload jpeg"].delay_ms / split


@pytest.mark.parametrize("family", TABLE_II)
def test_offloading_takes_as_long_as_published(family):
    for depth, published_s in zip(DEPTHS, TABLE_II[family], strict=True):
        rows = rows_of(published(f"{family}-resnet-{depth}", "ghnd-tx2", "ghnd-rtx-2080-ti", 5))
        assert rows["offload jpeg"].delay_ms == pytest.approx(1e3 * published_s, rel=0.005)


def test_the_bottleneck_has_the_bytes_of_its_published_ratios_and_nearly_those_of_its_shape():
    profile = HostProfile.load("ghnd-tx2")
    payloads = profile.detector("mask-rcnn-resnet-50").cuts[0].payloads()
    ratios = {wire: size / profile.images.jpeg_bytes for wire, size in payloads.items()}
    assert ratios == pytest.approx({"fp32": 2.56, "fp16": 1.28, "uint8": 0.643}, rel=1e-4)
    height, width = profile.images.size
    # The ratios are means over images, the shape is that of the mean image.
    assert payloads["uint8"] == pytest.approx(3 * (height / 4 + 4) * (width / 4 + 4), rel=0.05)


def test_gain_over_offloading_falls_from_one_and_a_half_to_one_at_8_mbit():
    """Figure 5b: "for extremely poor channels, the gain reaches 1.5 [...] until the threshold 1 is hit at about 8Mbps"."""
    for family in TABLE_II:
        curve = [gains(f"{family}-resnet-50", mbit)[1] for mbit in (0.5, 1, 2, 4, 8, 10)]
        assert curve == sorted(curve, reverse=True)
        assert curve[0] == pytest.approx(1.5, abs=0.02)
        assert curve[4] == pytest.approx(1.0, abs=0.01)
        assert curve[5] < 1


@pytest.mark.parametrize(
    ("family", "at_10", "even_at"),
    [("faster-rcnn", 3.4, (1, 2)), ("mask-rcnn", 3.2, (1, 2)), ("keypoint-rcnn", 8, (0.5, 1))],
)
def test_gain_over_local_computing_grows_to_what_figure_5a_shows(family, at_10, even_at):
    """Section VI: "up to 3 (Faster and Mask R-CNNs) and 8 (Keypoint R-CNN)" at 10 Mbit/s, 1 within 0.5 to 2 Mbit/s."""
    detector = f"{family}-resnet-50"
    curve = [gains(detector, mbit)[0] for mbit in (0.5, 1, 2, 4, 8, 10)]
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(at_10, rel=0.03)
    assert gains(detector, even_at[0])[0] < 1 < gains(detector, even_at[1])[0]


def test_table_2_of_split_computing_gives_whole_detectors():
    rows = rows_of(published("faster-rcnn-resnet-50", "split-raspberry-pi-4", "split-desktop", 5))
    assert rows["full on edge"].delay_ms == pytest.approx(26_140)
    assert rows["full on workstation"].delay_ms == pytest.approx(43.4)
    assert set(rows) == {"full on edge", "full on workstation", "offload jpeg"}


# A bundle


@pytest.fixture
def profiled(bundle, tmp_path):
    """Two profiles of the tiny bundle as files; `change` gets the stages of the second."""

    def make(change=lambda stages: None, folder=bundle, **facts):
        manifest = Bundle.load(folder, verify=False)
        paths = []
        for host, factor in (("edge", 1.0), ("workstation", 0.5)):
            stages = {
                "preprocess": StageTime(solo_ms=1),
                "capture": StageTime(solo_ms=1),
                "postprocess": StageTime(solo_ms=1),
            }
            for name in ("encode-jpeg", "decode-jpeg"):
                stages |= {name: StageTime(solo_ms=2), f"{name}/pixels": StageTime(solo_ms=2)}
            for stage, ms in zip(manifest.stages, (20, 10), strict=True):
                for name, share in ((stage.name, 1.0), (f"{stage.name}@0.5", 0.75)):
                    stages[name] = StageTime(solo_ms=ms * factor * share)
                    steps = [f"{wire}/decode" for wire in ("fp16", "uint8", *PACKED)]
                    steps += [f"{wire}/encode" for wire in PACKED]
                    stages |= {f"{name}/{step}": StageTime(solo_ms=0.5) for step in steps}
            if host == "workstation":
                change(stages)
            times = DetectorTimes(
                bundle=manifest.graphs_checksum, graphs=tuple(stage.name for stage in manifest.stages), stages=stages
            )
            images = ImageFacts(source="clip", size=(96, 128), jpeg_bytes=5000, pixels_jpeg_bytes=3000, jpeg_quality=90)
            profile = HostProfile(
                schema=1, host=host, engine="onnxruntime:fp32", threads=1, images=images,
                detectors={manifest.detector: times}, **facts,
            )  # fmt: skip
            paths.append(tmp_path / f"{host}.toml")
            profile.save(paths[-1])
        return [str(path) for path in paths]

    return make


def test_every_placement_wire_type_and_host_is_planned_best_first(bundle, profiled):
    plan = Plan.open(profiled(), Link(100e6), str(bundle), None)
    rows, left_out = plan.rows()
    assert left_out == []
    labels = {row.candidate.label for row in rows}
    assert len(labels) == len(rows) == 2 + 2 + 5 + 10
    rates = [round(row.forecast.fps, 6) for row in rows]
    assert rates == sorted(rates, reverse=True)
    by_label = {row.candidate.label: row.forecast for row in rows}
    assert by_label["full on workstation"].fps == pytest.approx(1e3 / 15)
    assert by_label["full on edge"].delay_ms == pytest.approx(1 + 1 + 30 + 1)
    head = plan.bundle.stages[0]
    elements = 1
    for size in next(tensor.shape for tensor in head.outputs if tensor.name == head.wire_tensors[0]):
        elements *= size
    sent = {wire: plan.payloads("").features[head.name, wire] for wire in ("fp32", "fp16", "uint8")}
    assert sent["fp32"] == 4 * elements
    assert sent["fp16"] == 2 * elements
    assert elements < sent["uint8"] <= elements + 64 * 3
    results = plan.payloads("").results
    label = f"backbone {head.wire_tensors[0]} fp16"
    assert by_label[label].crossing_bytes == sent["fp16"] + results + 2 * HEADER_BYTES
    # Packing is one more stage at the edge.
    packed = by_label[f"backbone {head.wire_tensors[0]} uint4"]
    assert packed.delay_ms == pytest.approx(1 + 1 + 20 + 0.5 + 0.5 + 5 + 1 + _transfers_ms(plan, head.name, "uint4"))
    recorded = plan.bundle.with_accuracy(
        [MeasuredAccuracy(wire="uint8", data="x", num_images=1, bytes_per_frame=1.0, box_map=0.5)]
    )
    assert recorded.checksum != plan.bundle.checksum
    assert recorded.graphs_checksum == plan.bundle.graphs_checksum


def _transfers_ms(plan, graph, wire, width=1.0):
    """Of the features and the results."""
    payloads = plan.payloads("", width)
    sizes = (payloads.features[graph, wire], payloads.results)
    return sum(transfer_ms(Crossing("x", size), plan.link) for size in sizes)


def test_an_adaptive_bundle_has_a_row_for_every_width_and_wire_type(bundle, profiled, tmp_path):
    folder = tmp_path / "adaptive"
    folder.mkdir()
    raw = json.loads((bundle / "bundle.json").read_text())
    stages = json.loads(json.dumps(raw["stages"]))
    for tensors in (stages[0]["outputs"], stages[1]["inputs"]):
        for tensor in tensors:
            tensor["shape"] = [8 if size == 16 else size for size in tensor["shape"]]
    raw["narrower"] = [{"width": 0.5, "stages": stages}]
    (folder / "bundle.json").write_text(json.dumps(raw))
    plan = Plan.open(profiled(folder=folder), Link(100e6), str(folder), None)
    rows, left_out = plan.rows()
    assert left_out == []
    assert len(rows) == 2 + 2 + 2 * (5 + 10)
    by_label = {row.candidate.label: row for row in rows}
    head = plan.bundle.stages[0]
    cut = head.wire_tensors[0]
    for wire in ("fp32", "fp16", "uint8", "uint4"):
        wide, narrow = by_label[f"backbone {cut} {wire}"], by_label[f"backbone {cut} x0.5 {wire}"]
        assert narrow.to_json()["width"] == 0.5
        saved = wide.forecast.crossing_bytes - narrow.forecast.crossing_bytes
        sent = plan.payloads("").features[head.name, wire]
        assert saved == pytest.approx(sent / 2, abs=4 * 64)  # parts are aligned
        faster = 0.25 * (20 + 5)
        moved = _transfers_ms(plan, head.name, wire) - _transfers_ms(plan, head.name, wire, 0.5)
        assert wide.forecast.delay_ms - narrow.forecast.delay_ms == pytest.approx(faster + moved)
    # A profile from before the bundle had widths plans the widest, and says what it lacks.
    older = profiled(lambda stages: [stages.pop(name) for name in list(stages) if "@" in name], folder=folder)
    rows, left_out = Plan.open(older, Link(100e6), str(folder), None).rows()
    assert len(rows) == 2 + 2 + 5 + 10
    assert any("@0.5" in reason for reason in left_out)


def plan_command(*arguments):
    return splitrail("plan", *arguments)


def test_json_has_what_a_script_needs(bundle, profiled):
    edge, workstation = profiled()
    result = plan_command(
        "--bundle",
        bundle,
        "--profile",
        edge,
        "--profile",
        workstation,
        "--link-rate",
        "10mbit",
        "--link-rtt",
        "20ms",
        "--json",
    )
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert {"placement", "cut", "wire", "images", "fps", "delay_ms", "queued_delay_ms", "busy", "bottleneck"} <= set(
        rows[0]
    )
    assert set(rows[0]["busy"]) == {"edge", "workstation"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--link-rate", "0mbit"], "is not a rate of at least 1kbit"),
        ([], "give --link-rate"),
        (["--link-rate", "1mbit", "--detector", "x"], "one of the two"),
        (["--link-rate", "1mbit", "--netns"], "add --verify"),
        (["--link-rate", "1mbit", "--verify"], "add --netns"),
    ],
)
def test_what_cannot_be_planned_ends_with_one_sentence(bundle, profiled, arguments, said):
    edge, workstation = profiled()
    result = plan_command("--bundle", bundle, "--profile", edge, "--profile", workstation, *arguments)
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_missing_stage_is_named_with_its_host(bundle, profiled):
    plan = Plan.open(profiled(lambda stages: stages.pop("postprocess")), Link(1e6), str(bundle), None)
    with pytest.raises(Exception, match=r"the profile of workstation has no time for \[postprocess\]") as caught:
        plan.rows()
    assert caught.value.exit_code == 2


def test_profiles_of_another_bundle_are_refused(bundle, profiled, tmp_path):
    from splitrail.stages.synthetic_bundle import make_synthetic_bundle

    other = tmp_path / "other"
    make_synthetic_bundle(other, size=(64, 96), num_classes=4, num_queries=5)
    edge, workstation = profiled()
    result = plan_command("--bundle", other, "--profile", edge, "--profile", workstation, "--link-rate", "1mbit")
    assert result.code == 2
    assert "was measured with another bundle" in result.err


def test_one_profile_is_too_few(bundle, profiled):
    edge, _ = profiled()
    result = plan_command("--bundle", bundle, "--profile", edge, "--link-rate", "1mbit")
    assert result.code == 2
    assert "needs two profiles" in result.err


def test_published_hosts_cannot_be_verified():
    from splitrail.launch.plan_verify import Verification
    from splitrail.pipeline.errors import UsageError

    plan = published("detr-resnet-50", "thesis-tx2", "thesis-workstation", 100)
    with pytest.raises(UsageError, match="was not measured here"):
        Verification(plan, "demo", None, 40)
