"""Placements: which stages run on which rank, and the lanes and edges that follow.

A placement is the chain of a frame's stages cut into segments, one rank each. A segment names stages of this vocabulary:

    source  preprocess  encode-jpeg  decode-jpeg  GRAPH...  postprocess  sink

where GRAPH is a graph of the bundle by its name, or `head` (those before the split point, most often one), `tail` (all
others), `network` (all of them). A neural filter is one of the head's graphs, where a run uses it.

    split        0: source preprocess head | 1: tail postprocess | 0: sink
    backbone     the same, as the thesis calls it
    transformer  0: source preprocess | 1: head | 0: tail postprocess sink
    full         0: source preprocess network postprocess sink
    offload      0: source encode-jpeg | 1: decode-jpeg preprocess network postprocess | 0: sink
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import ConfigError

SOURCE, PREPROCESS, POSTPROCESS, SINK = "source", "preprocess", "postprocess", "sink"
ENCODE_JPEG, DECODE_JPEG = "encode-jpeg", "decode-jpeg"
_PLAIN = (SOURCE, PREPROCESS, ENCODE_JPEG, DECODE_JPEG, POSTPROCESS, SINK)
_FRONTS = ((SOURCE, PREPROCESS), (SOURCE, ENCODE_JPEG, DECODE_JPEG, PREPROCESS))


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive stages on one rank."""

    rank: int
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LanePlan:
    """One lane: what it computes and where its packets come from and go to."""

    rank: int
    stages: tuple[str, ...]
    inbound: int | None
    """Index of the lane before it; None for the source's lane."""
    outbound: int | None
    """Index of the lane after it; None for the sink's lane."""

    @property
    def name(self) -> str:
        """For messages: the stages joined by +."""
        return "+".join(self.stages) or "relay"


@dataclass(frozen=True, slots=True)
class Placement:
    """A chain cut into segments; `lanes` needs the bundle's graph names."""

    name: str
    segments: tuple[Segment, ...]

    @staticmethod
    def from_mapping(raw: Mapping[str, object], where: str) -> Placement:
        """From a TOML table: `name` and `segments`, a list of tables with `rank` and `stages`. `where` names the file.

        Raises ConfigError for an unknown or missing key, a wrong type, or a chain without source or sink.
        """
        _known(raw, ("name", "segments"), where)
        segments = []
        items = raw.get("segments")
        if not isinstance(items, list) or not items:
            raise ConfigError(f"{where}: 'segments' must be a list of tables with 'rank' and 'stages'")
        for number, item in enumerate(items):
            here = f"{where}: segment {number}"
            if not isinstance(item, Mapping):
                raise ConfigError(f"{here} must be a table with 'rank' and 'stages'")
            _known(item, ("rank", "stages"), here)
            rank, stages = item.get("rank"), item.get("stages")
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
                raise ConfigError(f"{here}: 'rank' must be a whole number from 0, not {rank!r}")
            if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
                raise ConfigError(f"{here}: 'stages' must be a list of stage names, not {stages!r}")
            segments.append(Segment(rank, tuple(stages)))
        placement = Placement(str(raw.get("name", "")) or where, tuple(segments))
        placement.check(where)
        return placement

    def check(self, where: str) -> None:
        """Raise ConfigError unless the chain starts at one source, ends at one sink, and ranks count from 0 without gaps."""
        chain = [stage for segment in self.segments for stage in segment.stages]
        if not chain or chain[0] != SOURCE or chain.count(SOURCE) != 1:
            raise ConfigError(f"{where}: the chain must start with 'source', once; it is {chain}")
        if chain[-1] != SINK or chain.count(SINK) != 1:
            raise ConfigError(f"{where}: the chain must end with 'sink', once; it is {chain}")
        ranks = sorted({segment.rank for segment in self.segments})
        if ranks != list(range(len(ranks))):
            raise ConfigError(f"{where}: ranks must count from 0 without gaps, they are {ranks}")

    @property
    def num_ranks(self) -> int:
        """How many ranks it needs."""
        return 1 + max(segment.rank for segment in self.segments)

    @property
    def source_rank(self) -> int:
        """Where the frames are captured."""
        return self.segments[0].rank

    @property
    def sink_rank(self) -> int:
        """Where the results are written."""
        return self.segments[-1].rank

    def with_source(self, rank: int) -> Placement:
        """The same with source and sink on `rank`; pre-processing stays beside the source."""
        if rank == self.source_rank:
            return self
        body = [list(segment.stages) for segment in self.segments]
        body[0].remove(SOURCE)
        body[-1].remove(SINK)
        front = [SOURCE]
        for stage in (PREPROCESS, ENCODE_JPEG):
            if stage in body[0]:
                body[0].remove(stage)
                front.append(stage)
        middle = [Segment(segment.rank, tuple(stages)) for segment, stages in zip(self.segments, body, strict=True)]
        segments = (Segment(rank, tuple(front)), *middle, Segment(rank, (SINK,)))
        return Placement(self.name, tuple(segment for segment in segments if segment.stages))

    def with_sink(self, rank: int) -> Placement:
        """The same with the sink on `rank`."""
        if rank == self.sink_rank:
            return self
        last = self.segments[-1]
        before = replace(last, stages=last.stages[:-1])
        kept = self.segments[:-1] + ((before,) if before.stages else ())
        return Placement(self.name, (*kept, Segment(rank, (SINK,))))

    def resolve(self, graphs: Sequence[str], num_head: int = 1) -> Placement:
        """The same with `head` (the first `num_head`), `tail` and `network` replaced by the bundle's graph names, and checked
        against them."""
        groups = {"head": tuple(graphs[:num_head]), "tail": tuple(graphs[num_head:]), "network": tuple(graphs)}
        segments = []
        for segment in self.segments:
            stages: list[str] = []
            for stage in segment.stages:
                if stage in groups and not groups[stage]:
                    raise ConfigError(
                        f"placement {self.name} needs a bundle with a cut, this one has one graph ({graphs[0]}); "
                        "use placement full, or export the bundle with --cut"
                    )
                stages.extend(groups.get(stage, (stage,)))
            segments.append(Segment(segment.rank, tuple(stages)))
        used = [stage for segment in segments for stage in segment.stages if stage not in _PLAIN]
        if used != list(graphs):
            raise ConfigError(
                f"placement {self.name} runs the graphs {used} and the bundle has {list(graphs)} in this order; "
                "use the placement that fits the bundle's cuts"
            )
        chain = [stage for segment in segments for stage in segment.stages]
        if all(chain != [*front, *graphs, POSTPROCESS, SINK] for front in _FRONTS):
            raise ConfigError(
                f"placement {self.name} is the chain {chain}; around the graphs it must be {SOURCE}, {PREPROCESS}, ..., "
                f"{POSTPROCESS}, {SINK}, with {ENCODE_JPEG}, {DECODE_JPEG} behind the source where images travel as JPEG"
            )
        return Placement(self.name, tuple(segments))

    def lanes(self, graphs: Sequence[str], num_head: int = 1) -> tuple[LanePlan, ...]:
        """The lanes of all ranks, in frame order; the first `num_head` of `graphs` are the head.

        The source and the pre-processing beside it are one lane, the graphs of a rank another, the post-processing a third:
        so capture of frame n+1 and writing of n-1 overlap the engine's work on n. The queue behind the source's lane is
        where the run's policy drops frames.
        """
        groups: list[tuple[int, list[str]]] = []
        previous = ""
        for segment in self.resolve(graphs, num_head).segments:
            for stage in segment.stages:
                if not groups or groups[-1][0] != segment.rank or _breaks(previous, stage, graphs):
                    groups.append((segment.rank, []))
                groups[-1][1].append(stage)
                previous = stage
        # The source's lane must end in a local queue: a lane that waits for a slow link captures nothing.
        if len(groups) > 1 and groups[1][0] != groups[0][0]:
            groups.insert(1, (groups[0][0], []))
        # The sink is an end of a lane, and a rank that has nothing else for it relays to it.
        last = len(groups) - 1
        return tuple(
            LanePlan(rank, tuple(stages), index - 1 if index else None, index + 1 if index < last else None)
            for index, (rank, stages) in enumerate(groups)
        )


def _breaks(previous: str, stage: str, graphs: Sequence[str]) -> bool:
    """Whether a lane ends between two stages of one rank."""
    if previous == SOURCE:
        return stage not in (PREPROCESS, SINK)
    if stage == SINK:
        return False
    return (previous in graphs) != (stage in graphs)


def _known(raw: Mapping[str, object], keys: Sequence[str], where: str) -> None:
    unknown = sorted(set(raw) - set(keys))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(keys)}")
