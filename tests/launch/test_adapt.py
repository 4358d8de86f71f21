"""Adaptive runs: every setting gives what an ordinary run gives, frames switch without loss, and bad input is told."""

import io
import json
import time

import numpy as np
import pytest
from adaptive_bundle import make_adaptive_bundle
from rich.console import Console

from splitrail.bench.finished_run import FinishedRun
from splitrail.bench.setting_changes import names_by_frame, setting_changes
from splitrail.launch import workshop  # noqa: F401  registers the engines
from splitrail.launch.adaptation import Adaptation
from splitrail.launch.assemble import Run
from splitrail.launch.bench_adapt import print_adapt
from splitrail.launch.bench_switch import SwitchBench, median_interval
from splitrail.launch.cli import main
from splitrail.launch.config import RunConfig
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Kind, Packet
from splitrail.pipeline.stage import Chain
from splitrail.pipeline.switch import Switch
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import decode, encode
from splitrail.stages.detections import Detections
from splitrail.stages.engines.registry import open_engine
from splitrail.stages.jpeg import JpegDecode, JpegEncode
from splitrail.stages.network import Network, outputs_of
from splitrail.stages.neural_filter import open_filter
from splitrail.stages.postprocess import DetrPostprocess
from splitrail.stages.synthetic_bundle import make_synthetic_bundle
from splitrail.stages.wire import WireForm

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "adaptive"
    make_adaptive_bundle(folder, size=(64, 96))
    return folder


class Lanes:
    """The three lanes of an adaptive run, one after the other in this process."""

    def __init__(self, folder, engine="onnxruntime", **adapt):
        bundle = Bundle.load(folder)
        raw = {"source": {"uri": "x"}, "out": "o", "bundle": str(folder), "placement": "split", "adapt": adapt}
        config = RunConfig.check(raw, "test")
        self.run = Run.plan(config, config.resolve_placement(), bundle)
        self.parts = [
            Adaptation(
                self.run,
                rank,
                config.adapt,
                folder,
                NullObserver(),
                open_graph=lambda view, number, outputs: open_engine(engine, "fp32", folder, view, number, outputs, 1),
                open_filter=lambda: open_filter(folder, bundle, "onnxruntime", 1),
                open_postprocess=lambda: DetrPostprocess(0.2),
                is_live=False,
                knows_age=True,
            )
            for rank in (0, 1)
        ]
        self.parts[0].learn([part.times_s for part in self.parts])
        cut = self.run.cut
        self.switches = [self.parts[0].switch(cut), self.parts[1].switch(cut + 1), self.parts[1].switch(cut + 2)]

    def __call__(self, frame, index):
        """Detections, and what crossed between the ranks."""
        packet = packet_of(frame, setting=index)
        self.switches[0].process(packet)
        edge = self.run.edges()[self.run.cut]
        assert tuple(packet.tensors) == edge.tensors_of(index), packet.reason
        assert sum(array.nbytes for array in packet.tensors.values()) <= edge.max_message_bytes
        crossed = dict(packet.tensors)
        for switch in self.switches[1:]:
            switch.process(packet)
        assert packet.kind is Kind.FRAME, packet.reason
        return Detections.from_tensors(packet.tensors), crossed

    def close(self):
        for switch in self.switches:
            switch.close()


def packet_of(frame, **facts):
    height, width = (int(side) for side in frame["valid_size"])
    return Packet(0, 0, 0, (height, width), (height, width), tensors={"pixels": frame["pixels"]}, **facts)


def alone(folder, frame, setting, engine="onnxruntime"):
    """The same by the ordinary stages of the bundle at this width, one after the other."""
    view = Bundle.load(folder).at_width(setting.width)
    packet = packet_of(frame)
    if setting.way == "offload":
        for stage in (JpegEncode(setting.jpeg_quality, "pixels"), JpegDecode("pixels")):
            stage.process(packet)
    for number, stage in enumerate(view.stages):
        loaded = open_engine(engine, "fp32", folder, view, number, outputs_of(stage, None), 1)
        Network(loaded, stage, None).process(packet)
        loaded.close()
        if setting.way == "split" and stage.wire_tensors:
            form = WireForm.of(setting.wire)
            (name,) = stage.wire_tensors
            parts = encode(packet.tensors[name], form.name)
            packet.tensors = {name: decode(parts, form.name)}
    Chain([DetrPostprocess(0.2)], NullObserver()).process(packet)
    return Detections.from_tensors(packet.tensors)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_setting_gives_what_the_bundle_of_its_width_gives_also_when_they_take_turns(adaptive, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    lanes = Lanes(adaptive, engine, policy="fixed:1,fp16", ways=("split", "local", "offload"))
    settings = lanes.run.settings
    assert [setting.way for setting in settings].count("split") == 9
    frames = Bundle.load(adaptive).golden_frames(adaptive)
    wanted = [[alone(adaptive, frame, setting, engine) for setting in settings] for frame in frames]
    assert any(len(found) for row in wanted for found in row)
    # Forwards, backwards, and each setting after each other one.
    order = [*range(len(settings)), *reversed(range(len(settings)))]
    order += [each for first in range(len(settings)) for second in range(len(settings)) for each in (first, second)]
    for turn, index in enumerate(order):
        frame = turn % len(frames)
        found, crossed = lanes(frames[frame], index)
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(
                getattr(found, name), getattr(wanted[frame][index], name), settings[index].name
            )
        if settings[index].way == "split":
            elements = 16 * 8 * 12 * settings[index].width
            codes = next(iter(crossed.values()))
            assert codes.nbytes == elements * {"fp16": 2, "uint8": 1, "uint4": 0.5}[settings[index].wire]
    lanes.close()


def test_service_times_are_measured_and_where_nothing_is_done_they_are_none(adaptive):
    lanes = Lanes(adaptive, policy="fixed:1,fp16", ways=("split", "local", "offload"))
    edge, far = lanes.parts[0].times_s["edge"], lanes.parts[1].times_s["far"]
    assert all(took > 0 for took in edge)
    for setting, took in zip(lanes.run.settings, far, strict=True):
        assert (took > 0) == (setting.way != "local"), setting.name
    lanes.close()


def test_a_small_memory_for_graphs_gives_the_same(adaptive):
    whole = Lanes(adaptive, policy="fixed:1,fp16")
    little = Lanes(adaptive, policy="fixed:1,fp16", max_graph_memory_mb=0.001)
    frame = Bundle.load(adaptive).golden_frames(adaptive)[0]
    for index in range(len(whole.run.settings)):
        np.testing.assert_array_equal(whole(frame, index)[0].boxes, little(frame, index)[0].boxes)
    whole.close()
    little.close()


def test_what_switching_costs_is_measured(adaptive, monkeypatch):
    """Lanes that are 20 ms slower after another setting are found to be."""
    result = SwitchBench(str(adaptive), repeats=2, engine="onnxruntime").run()
    assert result["num_switches"] == 2 * 9
    assert result["frame_ms"] > 0
    assert 0 < result["decision_ms"] < 5
    before = [None]
    process = Switch.process

    def slow(self, packet):
        if packet.setting != before[0]:
            time.sleep(0.02)
        before[0] = packet.setting
        process(self, packet)

    monkeypatch.setattr(Switch, "process", slow)
    slower = SwitchBench(str(adaptive), repeats=2, engine="onnxruntime").run()
    assert slower["switch_cost"] * slower["frame_ms"] > 15
    low, high = slower["switch_cost_interval"]
    assert low <= slower["switch_cost"] <= high


def test_the_interval_of_a_median_holds_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = np.sort(random.exponential(size=(4000, 60)), axis=1)
    low, high = median_interval(60)
    held = np.mean((draws[:, low] <= np.log(2)) & (np.log(2) <= draws[:, high]))
    assert 0.94 <= held <= 0.98
    assert median_interval(1) == (0, 0)


def test_the_neural_filter_ends_empty_frames_in_every_setting_that_computes_the_head(tmp_path):
    make_synthetic_bundle(tmp_path, filter_threshold=0.05)
    lanes = Lanes(tmp_path, policy="fixed:1,uint4", ways=("split", "local", "offload"))
    frame = Bundle.load(tmp_path).golden_frames(tmp_path)[0]
    for index, setting in enumerate(lanes.run.settings):
        lanes(frame, index)
        empty = packet_of({**frame, "pixels": np.full_like(frame["pixels"], 127)}, setting=index)
        for switch in lanes.switches:
            switch.process(empty)
        assert empty.kind is (Kind.FRAME if setting.way == "offload" else Kind.EMPTY), setting.name
    lanes.close()


@pytest.mark.mpi
def test_a_run_by_a_file_adapts_and_tells_its_settings(splitrail_run, adaptive, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        '[adapt]\ntarget_delay_ms = 0.01\npolicy = "step"\nwires = ["uint8"]\nways = ["split", "local"]\n'
    )
    outcome = splitrail_run(
        "--config", config, "--no-video", "--loop", "--max-frames", "120", "--rate", "30", bundle=adaptive
    )
    assert outcome.code == 0, outcome.err
    begin = json.loads((outcome.folder / "journal-rank0.jsonl").read_text().splitlines()[0])
    assert begin["adapt"] == {"target": "target-delay-ms=0.01", "policy": "step"}
    assert [setting["name"] for setting in begin["settings"]] == ["1 uint8", "0.5 uint8", "0.25 uint8", "local 1"]
    assert all(ms > 0 for ms in begin["edge_ms"])
    assert outcome.summary["wire"] == "adaptive"
    # Nothing meets that, which is said once, and no frame is lost over it.
    assert outcome.err.count("note: nothing meets target-delay-ms=0.01") == 1
    counts = outcome.summary["counts"]
    assert counts["captured"] == 120 == counts["done"] + counts["dropped"]


@pytest.mark.mpi
@pytest.mark.netns
def test_over_a_link_that_changes_frames_switch_and_each_is_as_its_setting_makes_it(splitrail_run, tmp_path_factory):
    """A frame of the widest setting takes 49 kB, of the narrowest 3 kB; the link goes 50, 0.8, 50 Mbit/s."""
    from splitrail.launch.netns import TwoHosts
    from splitrail.pipeline.errors import HostError

    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("bundle") / "large"
    make_adaptive_bundle(folder, size=(256, 384))
    adapted = splitrail_run(
        "--netns", "--no-video", "--rate", "5", "--link-rate-steps", "50mbit:0,0.8mbit:3,50mbit:6", "--adapt",
        "target-fps=5", bundle=folder, placement="split", max_frames=50,
        source="scenes:size=256x384,frames=0",
    )  # fmt: skip
    assert adapted.code == 0, adapted.err
    counts = adapted.summary["counts"]
    assert counts["captured"] == 50 == sum(counts[fate] for fate in ("done", "empty", "dropped", "failed"))
    assert counts["failed"] == counts["unfinished"] == 0
    steps = json.loads((adapted.folder / "link.json").read_text())
    assert [step["rate"] for step in steps] == ["50mbit", "0.8mbit", "50mbit"]
    run = FinishedRun.load(adapted.folder)
    changes = setting_changes(run)
    assert len(changes) >= 3
    assert all(change.why for change in changes)
    names = names_by_frame(run)
    assert len(set(names.values())) >= 2
    # The frame's bytes are those of the setting that the journal names.
    elements = {"1": 16 * 32 * 48, "0.5": 8 * 32 * 48, "0.25": 4 * 32 * 48}
    sizes = {"fp16": 2, "uint8": 1, "uint4": 0.5}
    transfers = [transfer for transfer in run.transfers if transfer.edge.startswith("0->1")]
    assert len(transfers) == counts["done"]
    for transfer in transfers:
        width, wire = names[transfer.frame].split()
        payload = elements[width] * sizes[wire]
        assert payload + 320 <= transfer.num_bytes <= payload + 320 + 256, names[transfer.frame]


def refused(arguments, words, tmp_path, clip, capsys):
    code = main(["run", "--source", str(clip), "--out", str(tmp_path / "o"), *map(str, arguments)])
    said = capsys.readouterr().err
    assert code == 2, said
    assert words in said.replace("\n", " ")
    assert said.count("splitrail: ") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--adapt", "fps=15"), "give target-fps=15 or target-delay-ms=120"),
        (("--adapt-policy", "model"), "add --adapt target-fps=15"),
        (("--adapt", "target-fps=15", "--adapt-policy", "greedy"), "give model, step, or fixed"),
        (("--adapt-policy", "fixed:0.3,uint8"), "fixed:0.25,uint8"),
        (("--adapt", "target-fps=15", "--adapt-ways", "cloud"), "split, local, offload"),
        (("--adapt", "target-fps=15", "--adapt-wires", "fp8"), "there is no wire type 'fp8'"),
        (("--adapt", "target-fps=15", "--placement", "full"), "use placement split"),
        (("--adapt", "target-fps=15", "--placement", "offload"), "use placement split"),
        (("--adapt", "target-fps=15", "--overlap", "naive"), "credits"),
        (("--link-rate-steps", "1mbit:0,2mbit:5"), "add --netns"),
    ],
)
def test_bad_input_gets_one_sentence(options, words, adaptive, tmp_path, clip, capsys):
    refused(["--bundle", adaptive, *options], words, tmp_path, clip, capsys)


def test_a_bundle_without_a_table_of_accuracies_says_how_to_get_one(bundle, tmp_path, clip, capsys):
    words = f"measure it once with 'splitrail evaluate {bundle} --all-settings --record'"
    refused(["--bundle", bundle, "--adapt", "target-fps=15"], words, tmp_path, clip, capsys)


def test_the_table_adapt_of_a_file_is_checked(adaptive, tmp_path, clip, capsys):
    config = tmp_path / "run.toml"
    config.write_text(f'bundle = "{adaptive}"\n[adapt]\ntarget_fps = 15\nspeed = 3\n')
    refused(
        ["--config", config],
        "unknown key 'adapt.speed'; the keys are max_graph_memory_mb, policy",
        tmp_path,
        clip,
        capsys,
    )
    config.write_text(f'bundle = "{adaptive}"\n[adapt]\npolicy = "step"\n')
    refused(["--config", config], "none of them is given", tmp_path, clip, capsys)


def test_a_bundle_of_another_schema_is_refused_by_both_versions(adaptive, tmp_path, clip, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in Bundle.load(adaptive).checksums():
        (other / name).write_bytes((adaptive / name).read_bytes())
    manifest = json.loads((adaptive / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps({**manifest, "schema_version": 7}))
    words = "has schema version 7 and this splitrail reads"
    refused(["--bundle", other, "--adapt", "target-fps=15"], words, tmp_path, clip, capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--link-rate-steps", "1mbit:0"), "give --link-rate-steps two or more"),
        (("--camera-size", "big"), "is not HxW"),
        (("--target", "fast"), "give target-fps=15 or target-delay-ms=120"),
        ((), "--all-settings --record"),
    ],
)
def test_what_bench_adapt_cannot_run_is_told(options, words, bundle, tmp_path, capsys):
    code = main(
        ["bench", "adapt", "--bundle", str(bundle), "--engine", "onnxruntime", "--out", str(tmp_path / "o"), *options]
    )
    assert code == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_the_table_of_bench_adapt_fits_a_terminal(tmp_path):
    step = {"rate": "8mbit", "fps": 4.9, "delay_p95_ms": 76.2, "recovery_s": None, "drain_s": 0.49, "dropped": 3}
    step |= {"streaming": {"mAP@50": 0.512, "mAP": 0.3}, "settings": {"1 fp16": 0.72, "0.25 uint4": 0.28}}
    counts = {"captured": 75, "done": 72, "empty": 0, "dropped": 3, "failed": 0}
    rows = [
        {**step, "name": name, "counts": counts, "lost": 0, "steps": [step]} for name in ("adaptive", "fixed 1 fp16")
    ]
    for row in rows:
        del row["recovery_s"], row["drain_s"]
    overall = [
        {
            "name": "adaptive",
            "fps": 4.9,
            "delay_p95_ms": None,
            "dropped": 6,
            "mAP": 0.3,
            "mAP@50": 0.5,
            "by_world": [0.4, 0.6],
        }
    ]
    result = {
        "target": "target-fps=5",
        "camera_fps": 5,
        "speed": 1,
        "policy": "model",
        "worlds": [{"seed": 3, "runs": rows}],
    }
    result |= {"overall": overall, "lost": 0, "kept_rate": [True, False], "adaptive_is_best": False}
    console = Console(width=80, record=True, file=io.StringIO())
    print_adapt(result, tmp_path, console)
    said = console.export_text()
    for words in (
        "never",
        "0.512",
        "0.49",
        "seed 3",
        "0.400 0.600",
        "frames lost: 0",
        "NOT THE BEST",
        "in 1 of 2 steps",
    ):
        assert words in said
    assert "…" not in said
