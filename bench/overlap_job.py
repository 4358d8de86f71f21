"""The work of the overlap bench: what the edge computes and what the tail computes."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import cast

from ..pipeline.clock import now_ns
from ..pipeline.errors import ConfigError
from ..pipeline.message import aligned
from ..pipeline.packet import Array, Kind, Packet
from ..pipeline.stage import Stage
from ..stages.bundle import WIRE_SUFFIXES, Bundle, WireType
from ..stages.codec import Decode, encode
from ..stages.engines.registry import open_engine
from ..stages.network import Network, outputs_of
from ..stages.postprocess import open_postprocess
from ..stages.preprocess import Preprocess
from ..stages.source import SourceOptions, open_source
from .overlap_config import BUNDLE, OverlapConfig
from .overlap_engine import TestEngine
from .overlap_frames import Arrivals, Frames

_MAX_PICTURES = 64
_NUM_SOLO = 9
_NUM_WARM_UP = 3


class Job:
    """One side's stages, warmed up. Raises UsageErrors for a bundle, engine or source that cannot be used."""

    def __init__(self, config: OverlapConfig, *, is_edge: bool) -> None:
        self._config = config
        self._is_edge = is_edge
        self.pictures: list[Array] = []
        self.arrivals = Arrivals()
        self._test_engine: TestEngine | None = None
        if config.engine == BUNDLE:
            self._bundle = Bundle.load(config.bundle, verify=False)
            if len(self._bundle.stages) < 2:
                raise ConfigError("this bench needs a detector with a cut and the bundle has only one graph")
            self._num_head = self._bundle.num_head_stages
            self._split = self._bundle.stages[self._num_head - 1]
            self.stages = self._edge_stages() if is_edge else [self.arrivals, *self._tail_stages()]
            self._warm_up()
        else:
            name, num_bytes = ("edge", config.frame_bytes) if is_edge else ("tail", 0)
            self._test_engine = TestEngine(name, config.engine, config.stage_ms, num_bytes)
            self.stages = [self._test_engine] if is_edge else [self.arrivals, self._test_engine]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of what the edge sends, in order."""
        if self._config.engine != BUNDLE:
            return ("payload",)
        return outputs_of(self._split, self._wire)

    @property
    def max_message_bytes(self) -> int:
        """Largest payload the edge sends."""
        if self._config.engine != BUNDLE:
            return self._config.frame_bytes
        return aligned(self._split.max_wire_bytes) + len(self.tensors) * aligned(1)

    def solo_ms(self) -> float:
        """Median time of a test engine's work alone, ms; nan for a bundle, whose tail has no input of its own."""
        if self._test_engine is None:
            return float("nan")
        times = []
        for _ in range(_NUM_SOLO):
            begin = now_ns()
            self._test_engine.work()
            times.append(now_ns() - begin)
        return statistics.median(times) / 1e6

    @property
    def _wire(self) -> WireType:
        return cast("WireType", self._config.wire)

    def _edge_stages(self) -> list[Stage]:
        options = SourceOptions(max_frames=min(self._config.num_frames, _MAX_PICTURES))
        source = open_source(self._config.source, options)
        while (packet := source.receive()) is not None:
            if packet.kind is Kind.FRAME:
                self.pictures.append(packet.tensors["image"].copy())
            packet.release()
        source.close()
        if not self.pictures:
            raise ConfigError(f"the source {self._config.source!r} has no picture; give another with --source")
        before = [self._network(index, None) for index in range(self._num_head - 1)]
        return [Preprocess(self._bundle.preprocess), *before, self._network(self._num_head - 1, self._wire)]

    def _tail_stages(self) -> list[Stage]:
        graphs = [self._network(index, None) for index in range(self._num_head, len(self._bundle.stages))]
        decoders = [Decode(self._split.wire_tensors, self._wire)] if self._wire != "fp32" else []
        return [*decoders, *graphs, open_postprocess(self._bundle.postprocess)]

    def _network(self, index: int, wire: WireType | None) -> Network:
        config, stage = self._config, self._bundle.stages[index]
        outputs = outputs_of(stage, wire)
        engine = open_engine(
            config.graph_engine,
            config.precision,
            Path(config.bundle),
            self._bundle,
            index,
            outputs,
            config.threads,
            config.device,
        )
        return Network(engine, stage, wire)

    def _warm_up(self) -> None:
        """The first frames of an engine are slow: they are not measured."""
        for _ in range(_NUM_WARM_UP):
            packet = Frames(1, self.pictures).receive() if self._is_edge else self._golden_features()
            assert packet is not None
            for stage in self.stages:
                stage.process(packet)
        self.arrivals.num_bytes = 0

    def _golden_features(self) -> Packet:
        """What the tail would receive for the bundle's first golden frame."""
        golden = self._bundle.golden_frames(self._config.bundle)[0]
        height, width = golden["pixels"].shape[1:3]
        valid = tuple(int(size) for size in golden.get("valid_size", (height, width)))
        packet = Packet(0, now_ns(), 0, (height, width), (valid[0], valid[1]))
        for name in self._split.wire_tensors:
            encoded = encode(golden[name], self._wire)
            packet.tensors |= {name + suffix: encoded[suffix] for suffix in WIRE_SUFFIXES[self._wire]}
        return packet
