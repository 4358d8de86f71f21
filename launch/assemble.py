"""From a placement to running lanes: the stages, channels and lanes of one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Protocol

import numpy as np
from mpi4py import MPI

from ..pipeline.baselines import BaselineInbound, BaselineOutbound
from ..pipeline.communication import Communication
from ..pipeline.edge import Edge
from ..pipeline.endpoint import Inbound, Outbound
from ..pipeline.errors import ConfigError
from ..pipeline.flow import Flow
from ..pipeline.halt import Halt
from ..pipeline.lane import Lane
from ..pipeline.local_channel import LocalChannel, Policy
from ..pipeline.message import aligned
from ..pipeline.mpi_channel import MpiInbound, MpiOutbound
from ..pipeline.observer import Observer
from ..pipeline.packet import Packet
from ..pipeline.placement import (
    ENCODE_JPEG,
    POSTPROCESS,
    PREPROCESS,
    SINK,
    SOURCE,
    LanePlan,
    Placement,
)
from ..pipeline.stage import Chain, Stage
from ..pipeline.switch import Switch
from ..stages.bundle import Bundle, GraphStage, WireType
from ..stages.detections import detection_tensors
from ..stages.network import form_of
from ..stages.rcnn_postprocess import MAX_MASK_BYTES
from ..stages.setting import Setting
from ..stages.wire import GraphForm, WireForm
from .config import RunConfig, bundle_folder

MAX_IMAGE_BYTES = 64 << 20
"""Largest native image that may cross ranks, bytes. Its buffers are only touched as far as images fill them."""
_MIN_EDGE_BYTES = 4096
_MAX_JPEG_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Run:
    """What all ranks of a run agree on."""

    lanes: tuple[LanePlan, ...]
    bundle: Bundle
    wire: WireType
    image_wire: Literal["jpeg", "raw"]
    overlap: Literal["full", "naive", "blocking"]
    policy: Policy
    payload_crc: bool
    eager_limit_bytes: int
    is_filtered: bool = False
    """Whether the bundle's neural filter is one of the graphs."""
    settings: tuple[Setting, ...] = ()
    """What an adaptive run chooses from for each frame; else empty."""

    @staticmethod
    def plan(config: RunConfig, placement: Placement, bundle: Bundle, policy: Policy = "wait") -> Run:
        """What `config` asks for. Raises ConfigError: the placement does not fit the bundle, it has no filter, or it cannot
        adapt; BundleError: the bundle does not say by what to choose."""
        is_filtered = config.is_filtered(bundle)
        run = Run(
            placement.lanes(bundle.chain(is_filtered=is_filtered), bundle.head_length(is_filtered=is_filtered)),
            bundle,
            config.wire,
            config.image_wire,
            config.overlap,
            policy,
            config.payload_crc,
            config.eager_limit_bytes,
            is_filtered,
            () if config.adapt is None else config.adapt.settings(bundle, str(bundle_folder(config.bundle))),
        )
        if run.settings:
            run._check_adaptive(placement)
        return run

    def at(self, setting: Setting) -> Run:
        """The same without a choice: all frames are cut at the setting's width and travel as its wire type."""
        return replace(self, bundle=self.bundle.at_width(setting.width), wire=setting.wire, settings=())

    @property
    def cut(self) -> int:
        """Index of the head's lane, behind which frames cross to the tail's, the next one; -1 where there is no such lane."""
        head = self.bundle.chain(is_filtered=self.is_filtered)[: self.bundle.head_length(is_filtered=self.is_filtered)]
        return next((index for index, lane in enumerate(self.lanes) if lane.stages == head and self.crosses(lane)), -1)

    def _check_adaptive(self, placement: Placement) -> None:
        """Raise ConfigError unless head and tail are a lane each, on two ranks, with the post-processing behind the tail."""
        if self.overlap != "full":
            raise ConfigError(
                f"--overlap {self.overlap} has no credits, from which --adapt learns; leave one of them out"
            )
        cut = self.cut
        tail, post = [*self.lanes[cut + 1 : cut + 3], None, None][:2] if cut >= 0 else (None, None)
        fits = tail is not None and tail.stages == self.bundle.chain()[self.bundle.num_head_stages :]
        if not fits or tail is None or post is None or post.rank != tail.rank or post.stages[:1] != (POSTPROCESS,):
            raise ConfigError(
                f"placement {placement.name} cannot adapt: the head must be on one rank, tail and post-processing on another; "
                "use placement split, or leave out --adapt"
            )

    def crosses(self, lane: LanePlan) -> bool:
        """Whether what leaves this lane goes to another rank."""
        return lane.outbound is not None and self.lanes[lane.outbound].rank != lane.rank

    def contents(self, lane: LanePlan) -> tuple[str, ...]:
        """Names of the tensors that leave a lane."""
        stages = lane.stages
        while not stages and lane.inbound is not None:
            lane = self.lanes[lane.inbound]
            stages = lane.stages
        last = stages[-1]
        if last == SOURCE:
            return ("image",)
        if last == PREPROCESS:
            return ("pixels",)
        if last == ENCODE_JPEG:
            return ("jpeg",)
        if last == POSTPROCESS:
            return detection_tensors(self.bundle.postprocess)
        graph = self._graphs[last]
        if not graph.wire_tensors:
            return tuple(output.name for output in graph.outputs)
        suffixes = WireForm.of(self.wire).suffixes if self.crosses(lane) else ("",)
        return tuple(name + suffix for name in graph.wire_tensors for suffix in suffixes)

    def edge_tensors(self, lane: LanePlan) -> tuple[str, ...]:
        """The same on an edge between ranks, where an image may be compressed."""
        names = self.contents(lane)
        return ("jpeg",) if names in (("pixels",), ("image",)) and self.image_wire == "jpeg" else names

    def is_jpeg(self, lane: LanePlan) -> bool:
        """Whether an image leaves this lane as a JPEG."""
        return self.crosses(lane) and self.edge_tensors(lane) != self.contents(lane)

    def max_message_bytes(self, lane: LanePlan) -> int:
        """Largest payload that can leave a lane, bytes."""
        names = self.contents(lane)
        if names in (("image",), ("jpeg",)):
            return MAX_IMAGE_BYTES
        if names == ("pixels",):
            return max(_MIN_EDGE_BYTES, self._max_num_pixels() * np.dtype(self.bundle.preprocess.pixel_dtype).itemsize)
        if names == detection_tensors(self.bundle.postprocess):
            return max(_MIN_EDGE_BYTES, self._max_detection_bytes())
        graph = self._graphs[lane.stages[-1]]
        if graph.wire_tensors:
            num_elements = graph.max_wire_bytes // 4
            wires = [tensor.shape for tensor in graph.outputs if tensor.name in graph.wire_tensors]
            channels = [shape[1] if len(shape) > 1 else 1 for shape in wires]
            num_channels = sum(size if isinstance(size, int) else num_elements for size in channels)
            return WireForm.of(self.wire).max_bytes(num_elements, num_channels, len(graph.wire_tensors))
        most = self.bundle.postprocess.max_detections
        return sum(
            aligned(8 * prod(most if isinstance(size, str) else size for size in output.shape))
            for output in graph.outputs
        )

    def _max_num_pixels(self) -> int:
        """Values in the largest `pixels`."""
        preprocess = self.bundle.preprocess
        height, width = preprocess.padded(preprocess.size or (preprocess.max_long_side,) * 2)
        return 3 * height * width

    def _max_detection_bytes(self) -> int:
        post = self.bundle.postprocess
        num = post.max_detections or int(self.bundle.stages[-1].outputs[0].shape[1])
        sizes = [num * size for size in (16, 4, 4)]
        if post.masks:
            sizes += [MAX_MASK_BYTES, num * 4, 8]
        if post.num_keypoints:
            sizes.append(num * 12 * post.num_keypoints)
        return sum(map(aligned, sizes))

    def edges(self) -> dict[int, Edge]:
        """The edges between ranks, by the index of the sending lane."""
        crossing = [(index, lane) for index, lane in enumerate(self.lanes) if self.crosses(lane)]
        edges = {
            index: Edge(
                number,
                lane.rank,
                self.lanes[index + 1].rank,
                self.edge_tensors(lane),
                self.max_message_bytes(lane),
                self.payload_crc,
                self.eager_limit_bytes,
                carries_results=self.contents(lane) == detection_tensors(self.bundle.postprocess),
            )
            for number, (index, lane) in enumerate(crossing)
        }
        if self.settings:
            edges[self.cut] = self._adaptive_edge(edges[self.cut], self.lanes[self.cut])
        return edges

    def _adaptive_edge(self, edge: Edge, lane: LanePlan) -> Edge:
        """The edge behind the head's lane, with room for every setting; its name is that of the tensors that are cut."""
        by_setting: list[tuple[str, ...]] = []
        sizes = [_MIN_EDGE_BYTES]
        for setting in self.settings:
            if setting.way == "split":
                at = self.at(setting)
                by_setting.append(at.edge_tensors(lane))
                sizes.append(at.max_message_bytes(lane))
            elif setting.way == "local":
                by_setting.append(detection_tensors(self.bundle.postprocess))
                sizes.append(self._max_detection_bytes())
            else:
                by_setting.append(("jpeg",))
                sizes.append(self._max_num_pixels() + _MAX_JPEG_HEADER_BYTES)
        names = self._graphs[lane.stages[-1]].wire_tensors
        return replace(edge, tensors=names, max_message_bytes=max(sizes), by_setting=tuple(by_setting))

    def decodes(self, lane: LanePlan) -> tuple[str, ...]:
        """Wire tensors that a lane must turn back into float32 before its first stage."""
        if lane.inbound is None or self.wire == "fp32" or not lane.stages:
            return ()
        before = self.lanes[lane.inbound]
        if not self.crosses(before):
            return ()
        graph = self._graphs.get(before.stages[-1]) if before.stages else None
        return graph.wire_tensors if graph is not None else ()

    def made_by_graph(self, lane: LanePlan) -> GraphForm:
        """The form in which the last graph of a lane leaves its tensors: that of the wire where it can make it itself."""
        graph = self._graphs.get(lane.stages[-1]) if lane.stages else None
        if graph is None or graph.name != lane.stages[-1] or not self.crosses(lane):
            return "fp32"
        return form_of(graph, self.wire)

    def encodes(self, lane: LanePlan) -> Mapping[str, tuple[int, ...] | None]:
        """Wire tensors that a lane must turn into what travels after its last stage, with their shapes where those are fixed."""
        graph = self._graphs.get(lane.stages[-1]) if lane.stages and self.crosses(lane) else None
        if graph is None or self.made_by_graph(lane) == self.wire:
            return {}
        shapes = {tensor.name: tensor.shape for tensor in graph.outputs}
        fixed = {name: tuple(size for size in shapes[name] if isinstance(size, int)) for name in graph.wire_tensors}
        return {name: shape if len(shape) == len(shapes[name]) else None for name, shape in fixed.items()}

    @property
    def _graphs(self) -> dict[str, GraphStage]:
        """Name -> the graph; behind the filter is what was before it."""
        graphs = {stage.name: stage for stage in self.bundle.stages}
        if self.bundle.filter is not None:
            graphs[self.bundle.filter.graph.name] = graphs[self.bundle.filter.after]
        return graphs


class AdaptiveLanes(Protocol):
    """The lanes of a rank on which a frame's way depends on its setting."""

    def inbound(self, inbound: Inbound, flow: Flow) -> Inbound:
        """That of the head's lane: it gives every packet its setting."""

    def switch(self, index: int) -> Switch | None:
        """What the lane of this index computes; None for one that does the same with all frames."""


@dataclass(slots=True)
class Parts:
    """What a rank's own stages are made from; made by the launcher for the stages this rank has."""

    stage: Callable[[str, LanePlan], Stage]
    """A stage by its name in the plan."""
    encode_jpeg: Callable[[str], Stage]
    decode_jpeg: Callable[[str], Stage]
    decode: Callable[[tuple[str, ...]], Stage]
    encode: Callable[[LanePlan], Stage]
    """What makes the tensors of the wire from those of the lane's last graph."""
    source: Inbound | None
    sink: Outbound | None
    on_drop: Callable[[Packet, str], None]
    adaptive: AdaptiveLanes | None = None
    """Where the run adapts."""


def build_lanes(
    run: Run,
    rank: int,
    parts: Parts,
    comm: MPI.Comm,
    communication: Communication,
    round_trips_ns: Mapping[int, int],
    halt: Halt,
    observer: Observer,
) -> Sequence[Lane]:
    """The lanes of `rank`, ready to start. `round_trips_ns` is by edge index."""
    edges = run.edges()
    local: dict[int, LocalChannel] = {}
    lanes = []
    for index, plan in enumerate(run.lanes):
        if plan.rank != rank:
            continue
        stages: list[Stage] = []
        switch = None if parts.adaptive is None else parts.adaptive.switch(index)
        flow: Flow | None = None
        inbound: Inbound
        if plan.inbound is None:
            assert parts.source is not None
            inbound = parts.source
        elif plan.inbound in edges:
            edge = edges[plan.inbound]
            inbound = (
                MpiInbound(edge, communication, halt, observer, round_trips_ns[edge.index])
                if run.overlap == "full"
                else BaselineInbound(comm, edge, halt, observer, blocking=run.overlap == "blocking")
            )
            before = run.contents(run.lanes[plan.inbound])
            if switch is None and edge.tensors != before:
                stages.append(parts.decode_jpeg(before[0]))
            if switch is None and (names := run.decodes(plan)):
                stages.append(parts.decode(names))
        else:
            inbound = local[plan.inbound]
        if switch is None:
            stages.extend(parts.stage(name, plan) for name in plan.stages if name not in (SOURCE, SINK))
            if run.encodes(plan):
                stages.append(parts.encode(plan))
        elif index == run.cut and parts.adaptive is not None:
            flow = Flow(round_trips_ns[edges[index].index], len(run.settings))
            inbound = parts.adaptive.inbound(inbound, flow)
        outbound: Outbound
        if plan.outbound is None:
            assert parts.sink is not None
            outbound = parts.sink
        elif index in edges:
            edge = edges[index]
            if switch is None and edge.tensors != run.contents(plan):
                stages.append(parts.encode_jpeg(run.contents(plan)[0]))
            outbound = (
                MpiOutbound(edge, communication, halt, observer, flow)
                if run.overlap == "full"
                else BaselineOutbound(comm, edge, halt, observer, blocking=run.overlap == "blocking")
            )
        else:
            is_source = plan.inbound is None
            local[index] = LocalChannel(
                plan.name,
                halt,
                observer,
                policy=run.policy if is_source else "wait",
                on_drop=parts.on_drop if is_source else None,
            )
            outbound = local[index]
        lanes.append(Lane(plan.name, inbound, switch or Chain(stages, observer), outbound, halt))
    return lanes
