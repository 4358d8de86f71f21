"""`splitrail plan`: every placement and cut of a detector over two hosts and a link, predicted and sorted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..bench.planner import Forecast, Link, Machine, forecast
from ..bench.planner_lanes import (
    ImageWire,
    MissingPayload,
    MissingStage,
    Payloads,
    TimeOf,
    at_width,
    lane_loads,
    stage_times,
)
from ..bench.profile import DetectorTimes, HostProfile, ProfileError
from ..bench.profile_measure import PACKED, offered_wires
from ..pipeline.errors import ConfigError
from ..pipeline.message import layout
from ..pipeline.packet import TensorSpec
from ..pipeline.placement import POSTPROCESS, PREPROCESS, SINK, SOURCE, Placement
from ..stages.bundle import Bundle
from ..stages.codec import wire_specs
from .assemble import MAX_IMAGE_BYTES
from .bench_overlap import eager_limit_for
from .config import bundle_folder, load_placement
from .link import parse_delay_ms
from .shaping import parse_rate

EDGE, WORKSTATION = 0, 1
_NUM_DETECTIONS = 100
"""Of a detector that does not say how many it finds: what R-CNNs keep (Matsubara and Levorato 2020)."""
TABLE: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}
"""Tables here have a row of ten columns and must fit a terminal."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a detector on the two hosts."""

    name: str
    """Placement, and the host of one that uses only one."""
    cut: str
    """What travels between the graphs; empty where nothing does."""
    wire: str
    """Of features; empty where there are none."""
    image_wire: ImageWire
    placement: Placement
    host_of_rank: tuple[int, ...] = (EDGE, WORKSTATION)
    images_travel: bool = False
    width: float = 1.0
    """Of an adaptive bundle."""

    @property
    def label(self) -> str:
        """What a reader tells it by."""
        width = "" if self.width == 1 else f"x{self.width:g}"
        images = self.image_wire if self.images_travel else ""
        return " ".join(filter(None, (self.name, self.cut, width, self.wire, images)))

    @property
    def is_plain(self) -> bool:
        """Whether any profile of the bundle has the times that it needs."""
        return self.width == 1 and self.wire not in PACKED

    @property
    def folder(self) -> str:
        """A name for its run's folder."""
        return re.sub(r"[^\w.+-]+", "-", self.label)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A candidate and what it will do."""

    candidate: Candidate
    forecast: Forecast

    def to_json(self) -> dict[str, Any]:
        """As JSON values; rates in frames per second, times in ms, sizes in bytes."""
        one = self.candidate
        return {
            "placement": one.name,
            "cut": one.cut or None,
            "width": one.width,
            "wire": one.wire or None,
            "images": one.image_wire if one.images_travel else None,
            **forecast_json(self.forecast),
        }


def forecast_json(will: Forecast) -> dict[str, Any]:
    """As JSON values, hosts by their roles."""
    return {
        **asdict(will),
        "busy": {"edge": will.busy[EDGE], "workstation": will.busy[WORKSTATION]},
        "bottleneck": _role(will.bottleneck),
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """The question; `rows` answers it."""

    profiles: tuple[HostProfile, HostProfile]
    """Of the edge device and of the workstation."""
    detector: str
    link: Link
    bundle: Bundle | None = None
    """None: the detector is known from the profiles alone."""

    @staticmethod
    def open(profiles: Sequence[str], link: Link, bundle: str | None, detector: str | None) -> Plan:
        """Load what the command line names. Raises ConfigError, ProfileError and BundleError."""
        if len(profiles) != 2:
            raise ConfigError(
                f"a plan needs two profiles, the edge device's and the workstation's, and got {len(profiles)}; give --profile "
                "twice (the same one twice for two equal hosts)"
            )
        if (bundle is None) == (detector is None):
            raise ConfigError(
                "give --bundle, or --detector for one that is known from the profiles alone; one of the two"
            )
        edge, workstation = (HostProfile.load(name) for name in profiles)
        manifest = Bundle.load(bundle_folder(bundle), verify=False) if bundle is not None else None
        plan = Plan((edge, workstation), manifest.detector if manifest else str(detector), link, manifest)
        plan.time_of()
        return plan

    def time_of(self) -> TimeOf:
        """The profiles' times. Raises ProfileError where they are not of this detector and bundle."""
        return stage_times(self.profiles, self.detector, self.bundle.graphs_checksum if self.bundle else "")

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs in order."""
        if self.bundle is not None:
            return tuple(stage.name for stage in self.bundle.stages)
        return self._times().graphs

    @property
    def machines(self) -> list[Machine]:
        """The hosts' CPUs; two hosts with the same machine share them."""
        edge, workstation = self.profiles
        threads = max(profile.threads or 1 for profile in self.profiles)
        if edge.machine and edge.machine == workstation.machine and edge.num_cpus:
            return [Machine((EDGE, WORKSTATION), edge.num_cpus, threads)]
        return [
            Machine((host,), profile.num_cpus, profile.threads or 1)
            for host, profile in enumerate(self.profiles)
            if profile.num_cpus
        ]

    def candidates(self) -> Iterator[Candidate]:
        """Every placement, cut and wire type."""
        graphs = self.graphs
        image_wires: tuple[ImageWire, ...] = ("raw", "jpeg")
        for host, name in ((EDGE, "edge"), (WORKSTATION, "workstation")):
            yield Candidate(f"full on {name}", "", "", "raw", load_placement("full"), (host,))
        offload_raw = _placement("offload", ([SOURCE, PREPROCESS], [*graphs, POSTPROCESS], [SINK]))
        yield Candidate("offload", "", "", "raw", offload_raw, images_travel=True)
        yield Candidate("offload", "", "", "jpeg", load_placement("offload"), images_travel=True)
        for name, after, wires, widths in self._cuts():
            head, tail = graphs[: graphs.index(after) + 1], graphs[graphs.index(after) + 1 :]
            backbone = _placement("backbone", ([SOURCE, PREPROCESS, *head], [*tail, POSTPROCESS], [SINK]))
            transformer = _placement("transformer", ([SOURCE, PREPROCESS], [*head], [*tail, POSTPROCESS, SINK]))
            for width, wire in product(widths, wires):
                yield Candidate("backbone", name, wire, "raw", backbone, width=width)
                for image_wire in image_wires:
                    yield Candidate("transformer", name, wire, image_wire, transformer, images_travel=True, width=width)

    def rows(self) -> tuple[list[PlannedRow], list[str]]:
        """The candidates, most frames per second first (then least delay), and why some are left out.

        Raises MissingStage where a measured profile lacks a graph, ProfileError where nothing can be predicted.
        """
        rows: list[PlannedRow] = []
        left_out: dict[str, None] = {}
        time_of = self.time_of()
        for candidate in self.candidates():
            try:
                rows.append(PlannedRow(candidate, self.predict(candidate, time_of)))
            except MissingStage as error:
                if candidate.is_plain and not all(profile.published for profile in self.profiles):
                    raise
                left_out[str(error)] = None
            except MissingPayload as error:
                left_out[str(error)] = None
        if not rows:
            raise ProfileError(f"nothing can be predicted: {next(iter(left_out))}")
        rows.sort(key=lambda row: (-round(row.forecast.fps, 6), row.forecast.delay_ms))
        return rows, list(left_out)

    def predict(self, candidate: Candidate, time_of: TimeOf) -> Forecast:
        """One candidate by the given times. Raises MissingStage and MissingPayload."""
        if candidate.width != 1:
            assert self.bundle is not None
            narrower = next(each for each in self.bundle.narrower if each.width == candidate.width)
            time_of = at_width(time_of, [stage.name for stage in narrower.stages], candidate.width)
        lanes = lane_loads(
            candidate.placement,
            self.graphs,
            candidate.wire or "fp32",
            candidate.image_wire,
            self.payloads(candidate.cut, candidate.width),
            time_of,
            eager_limit_for,
            candidate.host_of_rank,
        )
        return forecast(lanes, self.link, self.machines)

    def payloads(self, cut: str, width: float = 1.0) -> Payloads:
        """What travels, by the bundle at a width where there is one, else by the edge's profile and its cut of that name."""
        images = next((profile.images for profile in self.profiles if profile.images), None)
        jpeg = images.jpeg_bytes if images else None
        pixels_jpeg = images.pixels_jpeg_bytes if images else None
        if self.bundle is None:
            found = next((one for one in self._times().cuts if one.name == cut), None)
            features = {(found.after, wire): size for wire, size in found.payloads().items()} if found else {}
            return Payloads(features, None, pixels_jpeg, jpeg, 0, MAX_IMAGE_BYTES)
        size = self.bundle.preprocess.size or (self.bundle.preprocess.short_side, self.bundle.preprocess.max_long_side)
        return Payloads(
            _bundle_features(self.bundle.at_width(width)),
            3 * size[0] * size[1],
            pixels_jpeg,
            jpeg,
            _bundle_results(self.bundle),
            MAX_IMAGE_BYTES,
        )

    def to_json(self) -> dict[str, Any]:
        """What was asked, as JSON values."""
        rate = self.link.rate_bit_per_s
        return {
            "detector": self.detector,
            "bundle": self.bundle.checksum if self.bundle else None,
            "edge": self.profiles[EDGE].host,
            "workstation": self.profiles[WORKSTATION].host,
            "link": {**asdict(self.link), "rate_bit_per_s": None if np.isinf(rate) else rate},
        }

    def print(self, rows: Sequence[PlannedRow], left_out: Sequence[str], console: Console) -> None:
        """As a table, best first."""
        edge, workstation = (profile.host for profile in self.profiles)
        table = Table(title=f"{self.detector}: {edge} (edge) and {workstation} (workstation)", **TABLE)
        table.add_column("placement", no_wrap=True)
        for name in ("FPS", "delay", "queued", "edge %", "far %", "link %", "kB"):
            table.add_column(name, justify="right")
        table.add_column("slowest")
        is_one_cut = len({row.candidate.cut for row in rows if row.candidate.cut}) < 2
        for row in rows:
            will = row.forecast
            table.add_row(
                row.candidate.label.replace(f" {row.candidate.cut} ", " ") if is_one_cut else row.candidate.label,
                f"{will.fps:.2f}",
                *(
                    f"{delay:.1f}" if delay < 1000 else f"{delay:.0f}"
                    for delay in (will.delay_ms, will.queued_delay_ms)
                ),
                *(f"{100 * share:.0f}" for share in (*will.busy, will.link_busy)),
                f"{will.crossing_bytes / 1e3:.0f}",
                _role(will.bottleneck)
                .partition(":")[0]
                .partition(" of")[0]
                .partition(" from")[0]
                .replace("workstation", "far"),
            )
        console.print(table)
        rate = "unlimited" if np.isinf(self.link.rate_bit_per_s) else f"{self.link.rate_bit_per_s / 1e6:g} Mbit/s"
        duplex = "half" if self.link.half_duplex else "full"
        say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        say(
            f"link {rate}, round trip {self.link.round_trip_ms:g} ms, {duplex} duplex; kB: all that crosses it for a frame"
        )
        say(
            "ms; delay: of a frame that meets no other; queued: where the source is always ready; %: busy; far: the workstation"
        )
        for reason in left_out:
            say(f"left out: {reason}")

    def _times(self) -> DetectorTimes:
        return self.profiles[EDGE].detector(self.detector)

    def _cuts(self) -> list[tuple[str, str, tuple[str, ...], tuple[float, ...]]]:
        """Name, last graph before it, wire types and widths of every cut. At a narrower width it is the one at the bottleneck."""
        bundle = self.bundle
        if bundle is None:
            return [(cut.name, cut.after, tuple(cut.payloads()), (1.0,)) for cut in self._times().cuts]
        cuts: list[tuple[str, str, tuple[str, ...], tuple[float, ...]]] = []
        for index, stage in enumerate(bundle.stages, 1):
            # What an adaptive bundle is cut into behind its bottleneck, it is cut into for its widths' sake.
            if not stage.wire_tensors or (bundle.narrower and index > bundle.num_head_stages):
                continue
            widths = tuple(reversed(bundle.widths)) if index == bundle.num_head_stages else (1.0,)
            cuts.append(("+".join(stage.wire_tensors), stage.name, (*offered_wires(stage), *PACKED), widths))
        return cuts


def _role(text: str) -> str:
    """Hosts by their roles instead of numbers."""
    return text.replace("CPUs of host 0+1", "CPUs of both").replace("host 0", "edge").replace("host 1", "workstation")


def _placement(name: str, segments: tuple[list[str], list[str], list[str]]) -> Placement:
    return Placement.from_mapping(
        {
            "name": name,
            "segments": [{"rank": rank, "stages": stages} for rank, stages in zip((0, 1, 0), segments, strict=True)],
        },
        name,
    )


def placement_mapping(placement: Placement) -> dict[str, Any]:
    """As a run's configuration spells it."""
    return {
        "name": placement.name,
        "segments": [{"rank": segment.rank, "stages": list(segment.stages)} for segment in placement.segments],
    }


def _bundle_features(bundle: Bundle) -> dict[tuple[str, str], int]:
    """(Graph, wire type) -> payload, bytes: its wire tensors as a message lays them out. Of a graph whose size varies by
    frame, that of the largest frame."""
    features: dict[tuple[str, str], int] = {}
    for stage in bundle.stages:
        shapes = {tensor.name: tensor.shape for tensor in stage.outputs}
        for wire in (*offered_wires(stage), *(PACKED if stage.wire_tensors else ())):
            specs: list[TensorSpec] = []
            for name in stage.wire_tensors:
                shape = tuple(size for size in shapes[name] if isinstance(size, int))
                if len(shape) < len(shapes[name]):
                    shape = (stage.max_wire_bytes // 4 // len(stage.wire_tensors),)
                specs += wire_specs(name, shape, wire)
            features[stage.name, wire] = layout(specs)[1]
    return features


def _bundle_results(bundle: Bundle) -> int:
    """Payload of as many detections as the detector can find, bytes."""
    logits = next((tensor.shape for tensor in bundle.stages[-1].outputs if tensor.name == "pred_logits"), None)
    count = logits[1] if logits is not None and isinstance(logits[1], int) else _NUM_DETECTIONS
    specs = (("boxes", "float32", (count, 4)), ("scores", "float32", (count,)), ("labels", "int32", (count,)))
    return layout([TensorSpec(*spec) for spec in specs])[1]


def print_profiles(plan: Plan, console: Console) -> None:
    """Where the times come from."""
    for profile in plan.profiles:
        origin = profile.published or f"measured {profile.created} with {profile.engine}, {profile.threads} thread(s)"
        console.print(f"{profile.host}: {origin}", highlight=False, markup=False, soft_wrap=True)


def parse_link(rate: str, round_trip: str, *, half_duplex: bool, ideal: bool, is_needed: bool) -> Link:
    """The link as the command line spells it; without a rate it is unlimited, where it is not needed. Raises ConfigError."""
    if not rate and is_needed:
        raise ConfigError("a plan needs the rate of the link; give --link-rate, for instance 100mbit")
    return Link(
        parse_rate(rate) if rate else float("inf"),
        parse_delay_ms(round_trip),
        half_duplex,
        **({"tcp_share": 1.0, "poll_ms": 0.0} if ideal else {}),
    )
