"""Makes the stages, source and sink that one rank of a run needs, and knows the facts about them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from ..bench.journal import Journal
from ..bench.memory import measure_memory
from ..pipeline.clock import now_ns
from ..pipeline.errors import ConfigError
from ..pipeline.packet import Packet
from ..pipeline.placement import DECODE_JPEG, ENCODE_JPEG, POSTPROCESS, PREPROCESS, LanePlan, Placement
from ..pipeline.stage import Stage
from ..stages.bundle import Bundle
from ..stages.cache import cache_folder
from ..stages.codec import Decode, Encode
from ..stages.engine import Engine
from ..stages.engine_choice import check_engine, choose_engine
from ..stages.engines.progress import say
from ..stages.engines.registry import EngineKind, open_engine, register_engine
from ..stages.gallery import Gallery
from ..stages.jpeg import JpegDecode, JpegEncode
from ..stages.network import Network, outputs_of
from ..stages.neural_filter import open_filter
from ..stages.nms_choice import with_nms
from ..stages.postprocess import open_postprocess
from ..stages.preprocess import Preprocess
from ..stages.scene_source import SceneSource, open_scenes
from ..stages.sink import Sink
from ..stages.source import Source, SourceOptions, open_source, register_source
from ..stages.turnstile import Turnstile, TurnstileSink
from ..stages.writers.open_writers import open_writers
from .adaptation import Adaptation
from .assemble import Parts, Run
from .config import RunConfig

# By name only: no rank imports torch unless it is asked for, so `auto` does not try it.
register_source("scenes", open_scenes)
register_engine(
    EngineKind(
        "torch",
        "splitrail.models.engine:open_torch_engine",
        "torch",
        "torch",
        ("fp32", "bf16", "fp16"),
        automatic=False,
    )
)


class Workshop:
    """One per rank. `open` and `open_sink` may raise UsageErrors; all ranks call them together."""

    def __init__(
        self,
        config: RunConfig,
        placement: Placement,
        plans: tuple[LanePlan, ...],
        bundle: Bundle,
        folder: Path,
        rank: int,
        num_local_ranks: int,
        out: Path | None,
        journal: Journal,
    ) -> None:
        self._config = config
        self._bundle = bundle
        self._folder = folder
        self._rank = rank
        self._out = out
        self._journal = journal
        self._is_source = rank == placement.source_rank
        self._is_sink = rank == placement.sink_rank
        names = bundle.chain(is_filtered=config.is_filtered(bundle))
        self._graphs = [name for plan in plans if plan.rank == rank for name in plan.stages if name in names]
        self._plans = plans
        self.threads = config.threads or max(1, (os.cpu_count() or 1) // num_local_ranks)
        self._engine = ""
        self._engines: dict[str, Engine] = {}
        self._precision = ""
        self._choice: str | None = None
        self._disagreement = ""
        self._source: _CountedSource | None = None
        self._sink: Sink | None = None
        self._gallery: Gallery | None = None
        self._turnstile = Turnstile() if config.single_stream else None
        self._adaptation: Adaptation | None = None

    def open(self) -> None:
        """Choose the engine and open the source, as far as this rank has them."""
        cv2.setNumThreads(self.threads)
        if self._graphs:
            self._choose_engine()
        if self._is_source:
            options = self._config.source
            self._source = _CountedSource(
                open_source(
                    options.uri,
                    SourceOptions(
                        stride=options.stride, max_frames=options.max_frames, loop=options.loop, rate=options.rate_fps
                    ),
                    self._journal,
                ),
                self._journal,
                self._turnstile,
            )

    @property
    def scenes(self) -> SceneSource | None:
        """The source, where it is generated scenes and on this rank."""
        source = self._source.source if self._source is not None else None
        return source if isinstance(source, SceneSource) else None

    def source_facts(self) -> dict[str, Any] | None:
        """What the other ranks must know of the source; None on ranks without it."""
        if self._source is None:
            return None
        source = self._source.source
        return {
            "fps": source.fps,
            "num_frames": source.num_frames,
            "live": source.live,
            "description": source.description,
            "has_names": bool(source.name_of(0)),
        }

    def open_sink(self, source: Mapping[str, Any], *, lossless: bool) -> None:
        """Open the writers, where this rank is the sink. `lossless`: a slow writer of pictures holds the run up."""
        if not self._is_sink:
            return
        assert self._out is not None
        wanted = self._config.sink
        beside_source = self._source is not None
        if wanted.coco and source["has_names"] and not beside_source:
            raise ConfigError(
                "COCO results need the images' names, which the source has; put the sink on the source's rank"
            )
        names = ["jsonl"]
        if wanted.video or (wanted.video is None and beside_source):
            names.append("video")
        names += [name for name in ("frames", "csv", "coco", "show") if getattr(wanted, name)]
        if beside_source and self._source is not None:
            self._gallery = Gallery()
            self._source.gallery = self._gallery
        writers = open_writers(
            names,
            self._out,
            self._bundle.classes,
            fps=source["fps"],
            annotations=Path(wanted.coco_annotations) if wanted.coco_annotations else None,
            on_quit=self.stop_source,
        )
        self._sink = Sink(
            writers,
            self._journal,
            classes=self._bundle.classes,
            gallery=self._gallery,
            name_of=self._source.source.name_of if self._source is not None else None,
            lossless=lossless,
            draw_threshold=self._bundle.postprocess.score_threshold,
        )

    def adapt(self, run: Run, *, is_live: bool) -> Mapping[str, Sequence[float]]:
        """Load what every setting needs here, where the run adapts; returns `Adaptation.times_s`."""
        assert self._config.adapt is not None
        self._adaptation = Adaptation(
            run,
            self._rank,
            self._config.adapt,
            self._folder,
            self._journal,
            open_graph=self._open_graph,
            open_filter=self._filter,
            open_postprocess=self._postprocess,
            is_live=is_live,
            knows_age=self._is_source,
        )
        return self._adaptation.times_s

    def learn(self, times_s: Sequence[Mapping[str, Sequence[float]]]) -> None:
        """What `adapt` gave on every rank."""
        assert self._adaptation is not None
        self._adaptation.learn(times_s)

    def parts(self, run: Run) -> Parts:
        """What `build_lanes` makes lanes from."""

        def make(name: str, plan: LanePlan) -> Stage:
            if name == PREPROCESS:
                return Preprocess(self._bundle.preprocess)
            if name == ENCODE_JPEG:
                return JpegEncode(self._config.jpeg_quality)
            if name == DECODE_JPEG:
                return JpegDecode()
            if name == POSTPROCESS:
                return self._postprocess()
            if self._bundle.filter is not None and name == self._bundle.filter.graph.name:
                return self._filter()
            return self._network(name, plan, run)

        return Parts(
            stage=make,
            encode_jpeg=lambda tensor: JpegEncode(self._config.jpeg_quality, _jpeg_tensor(tensor)),
            decode_jpeg=lambda tensor: JpegDecode(_jpeg_tensor(tensor), self._bundle.preprocess.pixel_dtype),
            decode=lambda names: Decode(names, run.wire),
            encode=lambda plan: self._encode(plan, run),
            source=self._source,
            sink=TurnstileSink(self._sink, self._turnstile) if self._sink and self._turnstile else self._sink,
            on_drop=self._on_drop,
            adaptive=self._adaptation,
        )

    def facts(self) -> dict[str, Any]:
        """For the journal's first line."""
        graphs = list(self._bundle.stages)
        if self._bundle.filter is not None:
            graphs.append(self._bundle.filter.graph)
        sizes = {graph.name: (self._folder / graph.graph).stat().st_size for graph in graphs}
        return {
            "engine": self._engine or None,
            "precision": self._precision or None,
            "engine_choice": self._choice,
            "engine_disagreement": self._disagreement or None,
            "threads": self.threads if self._graphs else None,
            "graphs": self._graphs,
            "graph_bytes": sum(sizes[name] for name in self._graphs),
            "filter_threshold": self._filter_threshold(),
            "source": self.source_facts(),
            **({} if self._adaptation is None else self._adaptation.facts()),
        }

    def closing_facts(self) -> dict[str, Any]:
        """For the journal's last line: memory, and how many frames were captured."""
        return {
            **measure_memory(),
            "num_captured": self._source.num_captured if self._source is not None else None,
            "device_ms": self._device_times() or None,
        }

    def _device_times(self) -> dict[str, dict[str, float]]:
        """Stage -> the GPU's own time for a frame, from engines that measure it."""
        times: dict[str, dict[str, float]] = {
            name: engine.device_times_ms()
            for name, engine in self._engines.items()
            if hasattr(engine, "device_times_ms")
        }
        return {name: found for name, found in times.items() if found}

    def stop_source(self) -> None:
        """End the run after the frames that are in flight."""
        if self._source is not None:
            self._source.source.stop()
        if self._turnstile is not None:
            self._turnstile.open()

    def hurry(self) -> None:
        """The run has failed: close the outputs as they are."""
        if self._turnstile is not None:
            self._turnstile.open()
        if self._sink is not None:
            self._sink.hurry()

    def _on_drop(self, packet: Packet, reason: str) -> None:
        if self._sink is not None:
            self._sink.dropped(packet, reason)
        self._journal.fate(packet.frame, "dropped", reason, packet.capture_ns, packet.pts_ns, now_ns())

    def _choose_engine(self) -> None:
        """The same answer for every placement: decided for all cores of the host, whoever shares them in this run."""
        threads = os.cpu_count() or 1
        name, _, precision = self._config.engine.partition(":")
        if name == "auto":
            choice = choose_engine(self._folder, self._bundle, threads=threads, cache=cache_folder(), on_progress=say)
            self._choice = str(choice)
        else:
            choice = check_engine(
                self._folder,
                self._bundle,
                name,
                precision or "fp32",
                threads=threads,
                cache=cache_folder(),
                device=self._config.device,
                on_progress=say,
            )
        self._engine, self._precision = choice.engine, choice.precision
        self._disagreement = choice.disagreement

    def _postprocess(self) -> Stage:
        spec = with_nms(self._bundle.postprocess, self._config.nms_iou)
        return open_postprocess(spec, self._config.score_threshold)

    def _filter(self) -> Stage:
        # The torch engine makes its model from weights, which a filter has none of.
        is_torch = self._engine == "torch"
        return open_filter(
            self._folder,
            self._bundle,
            "onnxruntime" if is_torch else self._engine,
            self.threads,
            "cpu" if is_torch else self._config.device,
            self._config.filter_threshold,
        )

    def _open_graph(self, bundle: Bundle, number: int, outputs: Sequence[str]) -> Engine:
        """The graph of this number of `bundle`, which may be one width of the run's."""
        return open_engine(
            self._engine, self._precision, self._folder, bundle, number, outputs, self.threads, self._config.device
        )

    def _network(self, name: str, plan: LanePlan, run: Run) -> Network:
        index = next(number for number, stage in enumerate(self._bundle.stages) if stage.name == name)
        stage = self._bundle.stages[index]
        wire = run.made_by_graph(plan) if plan.stages[-1] == name else None
        engine = self._open_graph(self._bundle, index, outputs_of(stage, wire))
        self._engines[name] = engine
        return Network(engine, stage, wire)

    def _encode(self, plan: LanePlan, run: Run) -> Encode:
        shapes = run.encodes(plan)
        fixed = {name: shape for name, shape in shapes.items() if shape is not None}
        return Encode(
            tuple(shapes), run.wire, fixed if len(fixed) == len(shapes) else None, source=run.made_by_graph(plan)
        )

    def _filter_threshold(self) -> float | None:
        """Of the filter on this rank."""
        neural_filter = self._bundle.filter
        if neural_filter is None or neural_filter.graph.name not in self._graphs:
            return None
        asked = self._config.filter_threshold
        return neural_filter.threshold if asked is None else asked


class _CountedSource:
    """The source as the lane's inbound: counts what was captured and keeps the images for the sink beside it."""

    def __init__(self, source: Source, journal: Journal, turnstile: Turnstile | None) -> None:
        self.source = source
        self._journal = journal
        self._turnstile = turnstile
        self.num_captured = 0
        self.gallery: Gallery | None = None

    def receive(self) -> Packet | None:
        if self._turnstile is not None:
            self._turnstile.enter()
        packet = self.source.receive()
        if packet is not None:
            self.num_captured += 1
            # From the picture's own time on: decoding counts as work, waiting for a camera does not.
            self._journal.stage("capture", packet.frame, packet.capture_ns, now_ns())
            if self.gallery is not None:
                self.gallery.keep(packet)
        return packet

    def close(self) -> None:
        self.source.close()


def _jpeg_tensor(name: str) -> Any:
    if name not in ("image", "pixels"):
        raise ConfigError(f"tensor {name!r} is not an image and cannot cross ranks as JPEG")
    return name
