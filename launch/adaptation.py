"""The lanes of an adaptive run on one rank: a chain for each setting, and where the head is, the controller."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pipeline.clock import now_ns
from ..pipeline.endpoint import Inbound
from ..pipeline.flow import Flow
from ..pipeline.observer import NullObserver, Observer
from ..pipeline.packet import Kind, Packet
from ..pipeline.stage import Chain, Stage
from ..pipeline.switch import Switch
from ..stages.bundle import Bundle, WireType
from ..stages.codec import Decode, Encode, encode
from ..stages.controller import Controller
from ..stages.engine import Engine
from ..stages.graph_pool import GraphPool
from ..stages.jpeg import JpegDecode, JpegEncode
from ..stages.network import Network, outputs_of
from ..stages.policy import open_policy
from ..stages.service_times import ServiceTimes
from ..stages.setting import Setting
from .adapt_config import AdaptConfig
from .assemble import Run

OpenGraph = Callable[[Bundle, int, Sequence[str]], Engine]
"""Loads a graph of a bundle by its number with these outputs, as every graph of this rank is loaded."""
_EDGE, _FAR = "edge", "far"
_NUM_TIMES = 4


class Adaptation:
    """What `build_lanes` takes the adaptive lanes of this rank from. All its graphs are loaded and measured at once."""

    def __init__(
        self,
        run: Run,
        rank: int,
        config: AdaptConfig,
        folder: Path,
        observer: Observer,
        *,
        open_graph: OpenGraph,
        open_filter: Callable[[], Stage],
        open_postprocess: Callable[[], Stage],
        is_live: bool,
        knows_age: bool,
    ) -> None:
        """`is_live`: the source does not wait for the run; `knows_age`: it is on the rank of the head.

        Raises EngineError: an engine refuses a graph.
        """
        self._run = run
        self._config = config
        self._folder = folder
        self._observer = observer
        self._open_graph = open_graph
        self._open_filter = open_filter
        self._open_postprocess = open_postprocess
        self._is_live = is_live
        self._knows_age = knows_age
        budget_mb = config.max_graph_memory_mb
        self._pool = GraphPool(None if budget_mb is None else round(budget_mb * 1e6))
        self._filter: Stage | None = None
        cut = run.cut
        before = run.lanes[cut].inbound
        self._comes_as_jpeg = before is not None and run.is_jpeg(run.lanes[before])
        self._chains: dict[int, list[list[Stage]]] = {}
        for index, make in ((cut, self._edge_chain), (cut + 1, self._far_chain), (cut + 2, self._post_chain)):
            if run.lanes[index].rank == rank:
                self._chains[index] = [make(setting) for setting in run.settings]
        self._pool.load_all()
        self._times: dict[str, list[float]] = {}
        for name, index in ((_EDGE, cut), (_FAR, cut + 1)):
            if index in self._chains:
                self._times[name] = [
                    self._measure(chain, self._golden(setting, is_far=name == _FAR))
                    for setting, chain in zip(run.settings, self._chains[index], strict=True)
                ]
        self._edge: ServiceTimes | None = None
        self._far: ServiceTimes | None = None

    @property
    def times_s(self) -> Mapping[str, Sequence[float]]:
        """Service time by setting of the lanes that this rank has, as JSON values: all ranks need those of all."""
        return self._times

    def learn(self, times_s: Sequence[Mapping[str, Sequence[float]]]) -> None:
        """Take what every rank has measured."""
        known = {name: times for each in times_s for name, times in each.items()}
        self._edge, self._far = ServiceTimes(known[_EDGE]), ServiceTimes(known[_FAR])

    def facts(self) -> dict[str, Any]:
        """For the journal's first line."""
        assert self._edge is not None
        assert self._far is not None
        target = self._config.target
        return {
            "graph_bytes": self._pool.num_bytes,
            "adapt": {"target": None if target is None else str(target), "policy": self._config.policy},
            "settings": [setting.to_json() for setting in self._run.settings],
            "edge_ms": [round(1e3 * each, 3) for each in self._edge.seconds],
            "far_ms": [round(1e3 * each, 3) for each in self._far.seconds],
        }

    def inbound(self, inbound: Inbound, flow: Flow) -> Inbound:
        """See `AdaptiveLanes`."""
        assert self._edge is not None
        assert self._far is not None
        settings = self._run.settings
        return Controller(
            inbound,
            settings,
            open_policy(self._config.policy, settings, self._config.target),
            flow,
            self._edge,
            self._far,
            self._observer,
            is_live=self._is_live,
            knows_age=self._knows_age,
            target=self._config.target,
            tell=lambda text: print(f"note: {text}", file=sys.stderr, flush=True),
        )

    def switch(self, index: int) -> Switch | None:
        """See `AdaptiveLanes`."""
        chains = self._chains.get(index)
        if chains is None:
            return None
        served = self._edge.served if index == self._run.cut and self._edge is not None else None
        return Switch(chains, self._observer, served)

    def _edge_chain(self, setting: Setting) -> list[Stage]:
        at = self._run.at(setting)
        plan = at.lanes[self._run.cut]
        stages: list[Stage] = []
        if self._comes_as_jpeg:
            stages.append(JpegDecode("pixels", at.bundle.preprocess.pixel_dtype))
        if setting.way == "offload":
            return [*stages, JpegEncode(setting.jpeg_quality or 0, "pixels")]
        if setting.way == "local":
            names = at.bundle.chain(is_filtered=at.is_filtered)
            return [*stages, *(self._graph(at, name) for name in names), self._open_postprocess()]
        stages += [self._graph(at, name) for name in plan.stages[:-1]]
        stages.append(self._graph(at, plan.stages[-1], at.made_by_graph(plan)))
        if shapes := at.encodes(plan):
            fixed = {name: shape for name, shape in shapes.items() if shape is not None}
            known = fixed if len(fixed) == len(shapes) else None
            stages.append(Encode(tuple(shapes), at.wire, known, source=at.made_by_graph(plan)))
        return stages

    def _far_chain(self, setting: Setting) -> list[Stage]:
        at = self._run.at(setting)
        plan = at.lanes[self._run.cut + 1]
        if setting.way == "local":
            return []
        if setting.way == "offload":
            decode: Stage = JpegDecode("pixels", at.bundle.preprocess.pixel_dtype)
            return [decode, *(self._graph(at, name) for name in at.bundle.chain())]
        decoded: list[Stage] = [Decode(names, at.wire)] if (names := at.decodes(plan)) else []
        return [*decoded, *(self._graph(at, name) for name in plan.stages)]

    def _post_chain(self, setting: Setting) -> list[Stage]:
        return [] if setting.way == "local" else [self._open_postprocess()]

    def _graph(self, at: Run, name: str, form: WireType | None = None) -> Stage:
        """The stage that runs the graph of this name at a width; its wire tensors leave it in `form`."""
        bundle = at.bundle
        if bundle.filter is not None and name == bundle.filter.graph.name:
            if self._filter is None:
                self._filter = self._open_filter()
            return self._filter
        number = next(index for index, stage in enumerate(bundle.stages) if stage.name == name)
        stage = bundle.stages[number]
        size = (self._folder / stage.graph).stat().st_size
        graph = self._pool.graph(
            stage.graph,
            size,
            outputs_of(stage, form),
            lambda outputs: self._open_graph(bundle, number, outputs),
        )
        return Network(graph, stage, form)

    def _golden(self, setting: Setting, *, is_far: bool) -> Packet | None:
        """A frame as a lane gets it; None where the lane has nothing to do."""
        if is_far and setting.way == "local":
            return None
        at = self._run.at(setting)
        frame = at.bundle.golden_frames(self._folder)[0]
        height, width = (int(side) for side in frame["valid_size"])
        packet = Packet(0, 0, 0, (height, width), (height, width), tensors={"pixels": frame["pixels"]})
        if not is_far:
            if self._comes_as_jpeg:
                JpegEncode(tensor="pixels").process(packet)
            return packet
        if setting.way == "offload":
            JpegEncode(setting.jpeg_quality or 0, "pixels").process(packet)
            return packet
        names = at.bundle.stages[at.bundle.num_head_stages - 1].wire_tensors
        packet.tensors = {
            name + suffix: part for name in names for suffix, part in encode(frame[name], at.wire).items()
        }
        return packet

    def _measure(self, chain: Sequence[Stage], packet: Packet | None) -> float:
        """Service time of a chain, s: the least of a few times, since a graph's first run is slower and others use the host
        too. 0 where it cannot be measured."""
        if packet is None:
            return 0.0
        tensors, times_s = packet.tensors, []
        timed = Chain(chain, NullObserver())
        for _ in range(_NUM_TIMES):
            packet.tensors, packet.kind = dict(tensors), Kind.FRAME
            begin = now_ns()
            timed.process(packet)
            times_s.append((now_ns() - begin) / 1e9)
        return min(times_s) if packet.kind is Kind.FRAME else 0.0
