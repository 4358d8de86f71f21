"""Profiles: what they say survives TOML, what is wrong with them is said, and a measured one times every stage."""

import json
import shutil

import pytest

from splitrail.bench.profile import DetectorTimes, HostProfile, ImageFacts, ProfileError, StageTime, published_profiles
from splitrail.bench.profile_measure import (
    PACKED,
    ProfileMeasurement,
    decode_stage,
    encode_stage,
    graphs_of,
    offered_wires,
    wire_stage,
)
from splitrail.pipeline.errors import SourceError
from splitrail.stages.bundle import Bundle
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

MINIMAL = """
schema = 1
host = "edge"
[detectors.d]
graphs = ["head", "tail"]
[detectors.d.stages]
head = { solo_ms = 5 }
tail = { solo_ms = 7.5, coload_ms = 8 }
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_synthetic_bundle(folder, size=(64, 96), num_classes=3, num_queries=5)
    return folder


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "p.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_what_is_saved_is_what_is_loaded(tmp_path):
    profile = HostProfile(
        schema=1,
        host='a "host" — named oddly',
        machine="m",
        num_cpus=2,
        threads=1,
        engine="openvino:fp32",
        environment={"packages": {"numpy": "2.0"}, "affinity": [0, 1], "variables": {"A B": "x\ny"}},
        images=ImageFacts(source="cam.mp4", size=(480, 640), jpeg_bytes=9),
        detectors={
            "detr": DetectorTimes(
                bundle="abc",
                graphs=("head", "tail"),
                stages={
                    "head": StageTime(solo_ms=5.25, num=9),
                    "head/fp16/decode": StageTime(solo_ms=0.5, coload_ms=1.0),
                },
            )
        },
    )
    path = tmp_path / "deep" / "p.toml"
    profile.save(path)
    assert HostProfile.load(path) == profile
    assert [file.name for file in path.parent.iterdir()] == ["p.toml"]


def test_every_published_profile_loads_and_says_where_it_is_from():
    names = published_profiles()
    assert len(names) >= 8
    for name in names:
        profile = HostProfile.load(name)
        assert profile.published
        for times in profile.detectors.values():
            assert all(stage.source for stage in times.stages.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("schema = 1", "schema = 2"), "reads 1; measure it again"),
        (lambda text: text.replace('host = "edge"', 'hots = "edge"'), "unknown key 'hots'|'host': field required"),
        (lambda text: text.replace("solo_ms = 5", "solo = 5"), "head"),
        (lambda text: text.replace("solo_ms = 5", "solo_ms = -5"), "solo_ms.*greater than or equal to 0"),
        (lambda text: text.replace("solo_ms = 5", "solo_ms = nan"), "solo_ms.*finite"),
        (lambda text: text + "[[", "is not TOML"),
        (
            lambda text: text + '[[detectors.d.cuts]]\nname = "c"\nafter = "head"\nshape = [1]\nbytes = { fp32 = 4 }\n',
            "either a shape or bytes",
        ),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_in_one_sentence(written, change, said):
    with pytest.raises(ProfileError, match=said) as caught:
        HostProfile.load(written(change(MINIMAL)))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_key_is_named(written):
    with pytest.raises(ProfileError, match=r"unknown key 'detectors\.d\.speed'; take it out"):
        HostProfile.load(written(MINIMAL.replace("[detectors.d]\n", "[detectors.d]\nspeed = 3\n")))


def test_a_profile_that_is_not_there_names_the_published_ones():
    with pytest.raises(ProfileError, match=r"no profile 'nowhere'.*thesis-tx2"):
        HostProfile.load("nowhere")


def test_another_bundle_or_detector_is_refused(written):
    profile = HostProfile.load(written(MINIMAL))
    assert profile.detector("d").stages["tail"].coload_ms == 8
    with pytest.raises(ProfileError, match="another bundle"):
        profile.detector("d", "f" * 64)
    with pytest.raises(ProfileError, match="no detector 'e'; it has d"):
        profile.detector("e")


def test_a_measured_profile_has_every_stage_solo_and_the_graphs_under_coload(bundle, tmp_path):
    manifest = Bundle.load(bundle)
    measurement = ProfileMeasurement(
        bundle, manifest, "onnxruntime", "fp32", source=str(_images(tmp_path)), seconds=0.05
    )
    said = []
    profile = measurement.measure("edge", say=said.append)
    times = profile.detector(manifest.detector, manifest.checksum)
    names = {
        "capture",
        "preprocess",
        "postprocess",
        "encode-jpeg",
        "decode-jpeg",
        "encode-jpeg/pixels",
        "decode-jpeg/pixels",
    }
    for stage in manifest.stages:
        for wire in offered_wires(stage) or ("fp32",):
            names.add(wire_stage(stage.name, wire))
            if wire != "fp32":
                names.add(decode_stage(stage.name, wire))
        if stage.wire_tensors:
            names |= {step(stage.name, wire) for wire in PACKED for step in (encode_stage, decode_stage)}
    assert set(times.stages) == names
    assert all(time.solo_ms > 0 and time.num and time.num >= 6 for time in times.stages.values())
    assert {name for name, time in times.stages.items() if time.coload_ms} == {stage.name for stage in manifest.stages}
    assert profile.images is not None
    assert profile.images.size == (48, 80)
    assert profile.host == "edge"
    assert profile.machine
    path = tmp_path / "p.toml"
    profile.save(path)
    assert HostProfile.load(path) == profile
    assert any("beside" in line for line in said)


def test_graphs_of_other_widths_are_timed_beside_the_widest(bundle, tmp_path):
    folder = tmp_path / "adaptive"
    shutil.copytree(bundle, folder)
    raw = json.loads((folder / "bundle.json").read_text())
    raw["narrower"] = [{"width": 0.5, "stages": [raw["stages"][0] | {"graph": "narrow.onnx"}]}]
    shutil.copyfile(folder / raw["stages"][0]["graph"], folder / "narrow.onnx")
    (folder / "bundle.json").write_text(json.dumps(raw))
    manifest = Bundle.load(folder)
    head, *rest = (stage.name for stage in manifest.stages)
    assert list(graphs_of(manifest)) == [head, *rest, f"{head}@0.5"]
    measurement = ProfileMeasurement(
        folder, manifest, "onnxruntime", "fp32", source=str(_images(tmp_path)), seconds=0.02
    )
    times = measurement.measure("edge").detector(manifest.detector, manifest.graphs_checksum)
    assert times.graphs == (head, *rest)
    wires = [wire for wire in offered_wires(manifest.stages[0]) if wire != "fp32"]
    expected = {f"{head}@0.5"} | {f"{head}@0.5/{wire}" for wire in wires}
    expected |= {f"{head}@0.5/{wire}/decode" for wire in (*wires, *PACKED)}
    expected |= {f"{head}@0.5/{wire}/encode" for wire in PACKED}
    assert {name for name in times.stages if "@" in name} == expected
    ratios = {times.stages[name].coload_ms / times.stages[name].solo_ms for name in (head, f"{head}@0.5")}
    assert max(ratios) == pytest.approx(min(ratios), rel=0.01)


def test_an_engine_that_cannot_load_and_a_source_without_images_are_said(bundle, tmp_path):
    from splitrail.pipeline.errors import EngineError

    manifest = Bundle.load(bundle)
    images = str(_images(tmp_path))
    with pytest.raises(EngineError, match="onnxruntime runs graphs in fp32"):
        ProfileMeasurement(bundle, manifest, "onnxruntime", "bf16", source=images, seconds=0.05).measure()
    with pytest.raises(SourceError, match="does not exist"):
        ProfileMeasurement(bundle, manifest, "onnxruntime", "fp32", source="nowhere.mp4").measure()


def _images(folder):
    import cv2
    import numpy as np

    out = folder / "images"
    out.mkdir(exist_ok=True)
    for number in range(6):
        cv2.imwrite(str(out / f"{number}.png"), np.full((48, 80, 3), 40 * number, np.uint8))
    return out
