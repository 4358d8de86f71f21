"""Measures a host's profile: every stage alone, and the graphs also while the other side of each cut computes beside them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from ..pipeline.clock import now_ns
from ..pipeline.errors import SourceError
from ..pipeline.packet import Array, Kind, Packet
from ..pipeline.placement import DECODE_JPEG, ENCODE_JPEG, POSTPROCESS, PREPROCESS
from ..pipeline.stage import Stage
from ..stages.bundle import WIRE_SUFFIXES, Bundle, GraphStage, WireType
from ..stages.codec import Decode, Encode
from ..stages.jpeg import JpegDecode, JpegEncode
from ..stages.postprocess import open_postprocess
from ..stages.preprocess import Preprocess
from ..stages.source import SourceOptions, open_source
from .environment import host_environment, machine_id
from .profile import DetectorTimes, HostProfile, ImageFacts, StageTime
from .profile_worker import GraphTask, GraphWorker

WIRES: tuple[WireType, ...] = ("fp32", "fp16", "uint8")
"""What graphs make themselves."""
PACKED: tuple[WireType, ...] = ("uint6", "uint4")
"""What is made from their float32 tensors."""
CAPTURE = "capture"
PIXELS = "/pixels"
"""Behind encode-jpeg and decode-jpeg: of the network's input instead of the source's image."""
_NUM_IMAGES = 40
_MIN_FRAMES = 9
_NUM_TURNS = 3
_NUM_SMALL = 30
"""How often what takes a millisecond or so is timed."""

Say = Callable[[str], None]


def offered_wires(stage: GraphStage) -> tuple[WireType, ...]:
    """The wire types that a graph makes itself; none for the last one."""
    offered = {tensor.name for tensor in stage.outputs}
    names = {wire: {name + suffix for name in stage.wire_tensors for suffix in WIRE_SUFFIXES[wire]} for wire in WIRES}
    return tuple(wire for wire in WIRES if stage.wire_tensors and names[wire] <= offered)


def wire_stage(graph: str, wire: str) -> str:
    """The name in a profile of a graph that ends in a wire type."""
    return graph if wire == "fp32" else f"{graph}/{wire}"


def encode_stage(graph: str, wire: str) -> str:
    """The name in a profile of what packs a graph's float32 tensors."""
    return f"{graph}/{wire}/encode"


def decode_stage(graph: str, wire: str) -> str:
    """The name in a profile of what turns a graph's wire tensors back into float32."""
    return f"{graph}/{wire}/decode"


def graph_at(graph: str, width: float) -> str:
    """The name in a profile of a graph that differs at a width below 1."""
    return graph if width == 1 else f"{graph}@{width!r}"


def graphs_of(bundle: Bundle) -> dict[str, tuple[Bundle, GraphStage]]:
    """Every graph of every width by its name in a profile, and the bundle at that width."""
    found = {stage.name: (bundle.at_width(bundle.widths[-1]), stage) for stage in bundle.stages}
    for each in bundle.narrower:
        view = bundle.at_width(each.width)
        found |= {graph_at(stage.name, each.width): (view, stage) for stage in each.stages}
    return found


@dataclass(frozen=True, slots=True)
class ProfileMeasurement:
    """What to measure; `measure` does it."""

    folder: Path
    bundle: Bundle
    engine: str
    precision: str
    device: str = "cpu"
    threads: int = 1
    source: str = "scenes"
    jpeg_quality: int = 90
    seconds: float = 5.0
    """Of each measurement, for each graph; as long as nine frames take, where that is longer."""

    def measure(self, host: str = "", *, coload: bool = True, say: Say = lambda _: None) -> HostProfile:
        """The profile of this host, which is called `host`. Raises SourceError and EngineError."""
        cv2.setNumThreads(self.threads)
        stages, images = self._small_stages(say)
        stages |= self._solo(say)
        if coload:
            ratios = self._coload(stages, say)
            for graph in graphs_of(self.bundle):
                coload_ms = stages[graph].solo_ms * ratios.get(graph.partition("@")[0], 1.0)
                stages[graph] = stages[graph].model_copy(update={"coload_ms": round(coload_ms, 4)})
        return HostProfile(
            schema=1,
            host=host or socket.gethostname(),
            machine=machine_id() or "",
            num_cpus=len(os.sched_getaffinity(0)),
            threads=self.threads,
            engine=f"{self.engine}:{self.precision}",
            device=self.device,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            environment={name: value for name, value in host_environment().items() if value is not None},
            images=images,
            detectors={
                self.bundle.detector: DetectorTimes(
                    bundle=self.bundle.graphs_checksum,
                    graphs=tuple(stage.name for stage in self.bundle.stages),
                    stages=stages,
                )
            },
        )

    def solo_chain_ms(self) -> dict[str, float]:
        """Graph -> median service time of all graphs in turn, ms: what a later moment is compared with a profile by."""
        graphs = tuple(stage.name for stage in self.bundle.stages)
        with GraphWorker(self._task(_plain(graphs))) as worker:
            worker.go(self.seconds, _MIN_FRAMES)
            return {name: float(np.median(times)) for name, times in zip(graphs, worker.times_ms(), strict=True)}

    def _solo(self, say: Say) -> dict[str, StageTime]:
        """Every graph, in each form that may leave it, in turn."""
        graphs = graphs_of(self.bundle)
        forms = [(name, wire) for name, (_, stage) in graphs.items() for wire in offered_wires(stage) or WIRES[:1]]
        say("graphs, alone")
        with GraphWorker(self._task(tuple(forms))) as worker:
            worker.go(self.seconds * len(forms), _MIN_FRAMES)
            times = worker.times_ms()
        return {wire_stage(*form): _time(values) for form, values in zip(forms, times, strict=True)}

    def _coload(self, solo: Mapping[str, StageTime], say: Say) -> dict[str, float]:
        """Graph -> by what it takes longer while another process computes the other side of a cut, median over the cuts.

        Either side alone and both together take turns, so that the ratio is of one and the same minute."""
        ratios: dict[str, list[float]] = defaultdict(list)
        graphs = tuple(stage.name for stage in self.bundle.stages)
        for cut in range(1, len(graphs)):
            sides = graphs[:cut], graphs[cut:]
            say(f"{'+'.join(sides[0])} beside {'+'.join(sides[1])}")
            slower_s = max(sum(solo[name].solo_ms for name in side) for side in sides) / 1e3
            seconds = max(self.seconds / _NUM_TURNS, slower_s * _MIN_FRAMES / _NUM_TURNS)
            alone: dict[str, list[float]] = defaultdict(list)
            beside: dict[str, list[float]] = defaultdict(list)
            with contextlib.ExitStack() as stack:
                workers = [stack.enter_context(GraphWorker(self._task(_plain(side)))) for side in sides]
                for _ in range(_NUM_TURNS):
                    for chosen, kept in ((workers[:1], alone), (workers[1:], alone), (workers, beside)):
                        for worker in chosen:
                            worker.go(seconds)
                        for worker in chosen:
                            for name, values in zip(sides[workers.index(worker)], worker.times_ms(), strict=True):
                                kept[name] += values
            for name in graphs:
                ratios[name].append(float(np.median(beside[name]) / np.median(alone[name])))
        return {name: float(np.median(values)) for name, values in ratios.items()}

    def _task(self, graphs: tuple[tuple[str, WireType], ...]) -> GraphTask:
        return GraphTask(str(self.folder), self.engine, self.precision, self.device, self.threads, graphs)

    def _small_stages(self, say: Say) -> tuple[dict[str, StageTime], ImageFacts]:
        """All but the graphs, on images of the source."""
        say(f"images of {self.source}")
        captures, frames = self._images()
        stages = {CAPTURE: _time(captures)}
        images = [frame.tensors["image"] for frame in frames]
        bytes_of: dict[str, int] = {}
        for tensor, suffix in (("image", ""), ("pixels", PIXELS)):
            if tensor == "pixels":
                stages[PREPROCESS] = _time(_process(Preprocess(self.bundle.preprocess), frames))
            inputs = [frame.tensors[tensor] for frame in frames]
            stages[ENCODE_JPEG + suffix] = _time(
                _process(JpegEncode(self.jpeg_quality, "image" if tensor == "image" else "pixels"), frames)
            )
            bytes_of[tensor] = round(float(np.mean([frame.tensors["jpeg"].size for frame in frames])))
            stages[DECODE_JPEG + suffix] = _time(
                _process(JpegDecode("image" if tensor == "image" else "pixels"), frames)
            )
            for frame, array in zip(frames, inputs, strict=True):
                frame.tensors = {tensor: array}
        stages |= self._golden_stages()
        height, width = images[0].shape[:2]
        facts = ImageFacts(
            source=self.source,
            size=(int(height), int(width)),
            jpeg_quality=self.jpeg_quality,
            jpeg_bytes=bytes_of["image"],
            pixels_jpeg_bytes=bytes_of["pixels"],
        )
        return stages, facts

    def _images(self) -> tuple[list[float], list[Packet]]:
        """How long the source took for each image, ms, and the packets with them."""
        source = open_source(self.source, SourceOptions(max_frames=_NUM_IMAGES))
        if source.live:
            source.close()
            raise SourceError(f"the source {self.source!r} is live and cannot be timed; give a file or images")
        captures: list[float] = []
        packets: list[Packet] = []
        try:
            while (packet := source.receive()) is not None:
                if packet.kind is Kind.FRAME:
                    captures.append((now_ns() - packet.capture_ns) / 1e6)
                    packets.append(packet)
        finally:
            source.close()
        if not packets:
            raise SourceError(f"the source {self.source!r} has no image that can be read; give another --source")
        return captures, packets

    def _golden_stages(self) -> dict[str, StageTime]:
        """What follows graphs: packing of what they do not make themselves, decoding of each wire type, and post-processing."""
        golden = self.bundle.golden_frames(self.folder)[0]
        stages = {}
        for graph, (view, stage) in graphs_of(self.bundle).items():
            found = golden if view.width == 1 else view.golden_frames(self.folder)[0]
            tensors: dict[str, Array] = {
                name: found[name].astype(np.float32, copy=False) for name in stage.wire_tensors
            }
            for wire in (*offered_wires(stage)[1:], *(PACKED if stage.wire_tensors else ())):
                packets = _packets(tensors)
                times = _process(Encode(stage.wire_tensors, wire), packets)
                if wire in PACKED:
                    stages[encode_stage(graph, wire)] = _time(times)
                decoding = _process(Decode(stage.wire_tensors, wire), packets)
                stages[decode_stage(graph, wire)] = _time(decoding)
        outputs = {tensor.name: golden[tensor.name] for tensor in self.bundle.stages[-1].outputs}
        stages[POSTPROCESS] = _time(_process(open_postprocess(self.bundle.postprocess), _packets(outputs)))
        return stages


def _plain(graphs: Sequence[str]) -> tuple[tuple[str, WireType], ...]:
    """Graphs that end in float32."""
    return tuple((name, "fp32") for name in graphs)


def _packets(tensors: dict[str, Array]) -> list[Packet]:
    return [Packet(number, 0, 0, (480, 640), tensors=dict(tensors)) for number in range(_NUM_SMALL)]


def _process(stage: Stage, packets: Sequence[Packet]) -> list[float]:
    """Service times, ms, of a stage on packets, which it changes."""
    times = []
    for packet in packets:
        begin = now_ns()
        stage.process(packet)
        times.append((now_ns() - begin) / 1e6)
    stage.close()
    return times


def _time(times_ms: Sequence[float]) -> StageTime:
    low, median, high = (float(value) for value in np.percentile(times_ms, [25, 50, 75]))
    return StageTime(
        solo_ms=round(median, 4),
        mean_ms=round(float(np.mean(times_ms)), 4),
        spread_ms=round(high - low, 4),
        num=len(times_ms),
    )
