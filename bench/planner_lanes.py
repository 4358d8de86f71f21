"""From a placement and two profiles to the lanes that `planner.forecast` predicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..pipeline.placement import (
    DECODE_JPEG,
    ENCODE_JPEG,
    POSTPROCESS,
    PREPROCESS,
    SINK,
    SOURCE,
    LanePlan,
    Placement,
)
from .planner import Crossing, LaneLoad
from .profile import NETWORK, DetectorTimes, HostProfile, ProfileError, StageTime
from .profile_measure import CAPTURE, PACKED, PIXELS, decode_stage, encode_stage, graph_at, wire_stage

ImageWire = Literal["raw", "jpeg"]
_NOTHING = StageTime(solo_ms=0.0)

TimeOf = Callable[[int, str], StageTime]
"""Host and stage (as in a profile) to its time."""
EagerLimit = Callable[[int], int]
"""Largest payload of a run to the size up to which its messages are sent without asking, bytes."""


class MissingStage(ProfileError):
    """A profile lacks the time of a graph."""


@dataclass(frozen=True, slots=True)
class Payloads:
    """What travels, bytes a frame. None: not known, so whatever needs it is left out of a plan."""

    features: Mapping[tuple[str, str], int]
    """(Graph before the cut, wire type) -> bytes."""
    pixels: int | None
    """The network's input, uint8."""
    pixels_jpeg: int | None
    jpeg: int | None
    """The source's image."""
    results: int
    """Detections of a frame."""
    max_image: int
    """Largest image that a run makes room for."""


class MissingPayload(ProfileError):
    """Nobody knows how large something is that would travel."""


def stage_times(profiles: Sequence[HostProfile], detector: str, bundle: str = "") -> TimeOf:
    """The times of a detector by host and stage; `bundle` is the checksum that measured profiles must have.

    Raises ProfileError; what it returns raises MissingStage for a graph that was not timed.
    """
    times = [profile.detector(detector, bundle if not profile.published else "") for profile in profiles]

    def time_of(host: int, stage: str) -> StageTime:
        found = times[host].stages.get(stage)
        if found is not None:
            return found
        graph = stage.partition("/")[0]
        if graph.partition("@")[0] not in _known_graphs(times) or stage.endswith(("/decode", "/encode")):
            if profiles[host].published:
                return _NOTHING
        elif graph in times[host].stages and graph != stage:
            # Making another wire type than fp32 costs about nothing beside the graph itself.
            return times[host].stages[graph]
        raise MissingStage(
            f"the profile of {profiles[host].host} has no time for [{stage}] of {detector}; measure it with "
            "'splitrail bench profile', or add it"
        )

    return time_of


def at_width(time_of: TimeOf, slimmed: Collection[str], width: float) -> TimeOf:
    """The times of a detector at a width below 1, where other graphs stand in for those of the names `slimmed`."""

    def narrow(host: int, stage: str) -> StageTime:
        graph, slash, form = stage.partition("/")
        return time_of(host, f"{graph_at(graph, width)}{slash}{form}" if graph in slimmed else stage)

    return narrow


def has_network(time_of: TimeOf, host: int) -> bool:
    """Whether a profile knows the time of all graphs in one go."""
    try:
        return time_of(host, NETWORK).solo_ms > 0
    except MissingStage:
        return False


def lane_loads(
    placement: Placement,
    graphs: Sequence[str],
    wire: str,
    image_wire: ImageWire,
    payloads: Payloads,
    time_of: TimeOf,
    eager_limit: EagerLimit,
    host_of_rank: Sequence[int] = (0, 1),
) -> list[LaneLoad]:
    """The lanes of a run. Raises MissingStage and MissingPayload."""
    plans = placement.lanes(graphs)
    names = [_stages(plans, index, graphs, wire, image_wire, time_of, host_of_rank) for index in range(len(plans))]
    sizes = [_payload(plans, index, graphs, wire, image_wire, payloads) for index in range(len(plans))]
    limit = eager_limit(max((bound for _, _, bound in filter(None, sizes)), default=0))
    loads = []
    for plan, stages, size in zip(plans, names, sizes, strict=True):
        host = host_of_rank[plan.rank]
        times = [time_of(host, stage) for stage in stages]
        solo = sum(time.solo_ms for time in times)
        coload = sum(time.solo_ms if time.coload_ms is None else time.coload_ms for time in times)
        computes = any(stage in graphs for stage in plan.stages)
        crossing = None
        if size is not None:
            what, num_bytes, _ = size
            crossing = Crossing(what, num_bytes, num_bytes <= limit, carries_results=what == "results")
        loads.append(
            LaneLoad(
                plan.name,
                host,
                sum(time.solo_ms if time.mean_ms is None else time.mean_ms for time in times),
                solo,
                times[0].solo_ms if times else 0.0,
                coload / solo if solo else 1.0,
                computes,
                crossing,
            )
        )
    return loads


def _known_graphs(times: Sequence[DetectorTimes]) -> set[str]:
    return {graph for one in times for graph in one.graphs} | {NETWORK}


def _crosses(plans: Sequence[LanePlan], index: int) -> bool:
    outbound = plans[index].outbound
    return outbound is not None and plans[outbound].rank != plans[index].rank


def _last_stage(plans: Sequence[LanePlan], index: int) -> str:
    """What made the packet that leaves a lane: a lane may only relay."""
    while not plans[index].stages:
        index -= 1
    return plans[index].stages[-1]


def _stages(
    plans: Sequence[LanePlan],
    index: int,
    graphs: Sequence[str],
    wire: str,
    image_wire: ImageWire,
    time_of: TimeOf,
    host_of_rank: Sequence[int],
) -> list[str]:
    """The stages of a lane as profiles name them, with what it adds at an edge."""
    plan = plans[index]
    stages = []
    if index and _crosses(plans, index - 1):
        before = _last_stage(plans, index - 1)
        if before == PREPROCESS and image_wire == "jpeg":
            stages.append(DECODE_JPEG + PIXELS)
        elif before in graphs and wire != "fp32":
            stages.append(decode_stage(before, wire))
    if tuple(stage for stage in plan.stages if stage in graphs) == tuple(graphs) and has_network(
        time_of, host_of_rank[plan.rank]
    ):
        stages.append(NETWORK)
        own = [stage for stage in plan.stages if stage not in graphs]
    else:
        own = list(plan.stages)
    for stage in own:
        if stage == SOURCE:
            stages.append(CAPTURE)
        elif stage in graphs:
            sends = stage == plan.stages[-1] and _crosses(plans, index)
            if sends and wire in PACKED:
                stages += [stage, encode_stage(stage, wire)]
            else:
                stages.append(wire_stage(stage, wire) if sends else stage)
        elif stage != SINK:
            stages.append(stage)
    if _crosses(plans, index) and _last_stage(plans, index) == PREPROCESS and image_wire == "jpeg":
        stages.append(ENCODE_JPEG + PIXELS)
    return stages


def _payload(
    plans: Sequence[LanePlan], index: int, graphs: Sequence[str], wire: str, image_wire: ImageWire, payloads: Payloads
) -> tuple[str, int, int] | None:
    """What leaves a lane for another rank: its name, its bytes, and the largest that a run makes room for."""
    if not _crosses(plans, index):
        return None
    last = _last_stage(plans, index)
    if last == POSTPROCESS:
        return "results", payloads.results, payloads.results
    if last == ENCODE_JPEG:
        return "image", _known(payloads.jpeg, "the source's image as JPEG"), payloads.max_image
    if last == PREPROCESS:
        raw = _known(payloads.pixels, "the network's input")
        if image_wire == "raw":
            return "pixels", raw, raw
        return "pixels", _known(payloads.pixels_jpeg, "the network's input as JPEG"), raw
    if last not in graphs:
        raise MissingPayload(f"nobody knows what [{last}] sends; put the cut behind a graph, or behind {PREPROCESS}")
    size = _known(payloads.features.get((last, wire)), f"what {last} sends as {wire}")
    return "features", size, payloads.features.get((last, "fp32"), size)


def _known(size: int | None, what: str) -> int:
    if size is None:
        raise MissingPayload(f"the profile does not say how many bytes {what} takes; add it to its [images] or cuts")
    return size
