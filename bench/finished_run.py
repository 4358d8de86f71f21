"""A run's folder, read for a report: the journals, what follows from them, and nothing that needs the run to have ended well."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..pipeline.errors import UsageError
from ..pipeline.packet import Kind
from .chain import RunChain
from .clock import RankClock, rank_clocks
from .journal import SCHEMA_VERSION
from .summary import SUMMARY, summarize, timed_results
from .validity import Verdict, judge_row

PREDICTION = "prediction.json"
_RECORD = "record.json"
_CUTS = {"c5": "C5", "features": "projection", "memory": "memory"}
"""Tensor that crosses ranks -> the cut it comes from."""
_RESULTS = ("boxes", "pred_")
_WIRE_SUFFIX = re.compile(r"_(fp16|uint\d+(_zstd)?)$")
_IMAGES = {"image": "raw images", "pixels": "raw pixels", "jpeg": "JPEG"}
"""The same -> what images travel as."""


class ReportError(UsageError):
    """A folder of which no report can be made."""


@dataclass(frozen=True, slots=True)
class Work:
    """A stage on one frame."""

    rank: int
    stage: str
    frame: int
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Wait:
    """A lane that waited; `frame` is the one it had or got, -1 for none."""

    rank: int
    cause: str
    """input, credit, queue, or sink."""
    where: str
    """The edge, the lane behind which the queue is, or pictures."""
    frame: int
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A frame on its way between two ranks, from the receiver's journal."""

    edge: str
    frame: int
    num_bytes: int
    posted_ns: int
    on_wire_ns: int
    """When the message before it had arrived, or posted, whichever is later: from here on the link is its own."""
    arrived_ns: int
    is_empty: bool = False
    """The neural filter had ended the frame: only a header."""


@dataclass(frozen=True, slots=True)
class Output:
    """A frame with a result (done or empty)."""

    frame: int
    captured_ns: int
    output_ns: int


@dataclass
class FinishedRun:
    """One run. All times of its events are ns of rank 0's clock; ranks whose clock is not known to it have no events."""

    folder: Path
    journals: dict[int, list[dict[str, Any]]]
    num_cut_off: int
    """Lines of the journals that cannot be read: cut off when the run was killed or a disk was full."""
    summary: dict[str, Any]
    name: str = field(default="")
    """What tells it from the other runs of the report, made by `find_runs`."""

    @staticmethod
    def load(folder: Path) -> FinishedRun:
        """Read the journals in `folder`; `summary.json` only adds what no journal has.

        Raises ReportError: there is no journal, or one of another schema.
        """
        journals: dict[int, list[dict[str, Any]]] = {}
        num_cut_off = 0
        for path in sorted(folder.glob("journal-rank*.jsonl")):
            lines, num_bad = _read(path)
            num_cut_off += num_bad
            if lines:
                journals[int(path.stem.removeprefix("journal-rank"))] = lines
        if not journals:
            raise ReportError(
                f"{folder} has no journal of a run (journal-rank*.jsonl with at least one line); "
                "give the folder that 'splitrail run --out' wrote"
            )
        schemas = {line.get("schema") for lines in journals.values() for line in lines if line["e"] == "begin"}
        if schemas - {SCHEMA_VERSION}:
            raise ReportError(
                f"the journals in {folder} have schema {', '.join(map(str, schemas))} and this version of splitrail reads "
                f"{SCHEMA_VERSION}; make the report with the version that made the run"
            )
        kept = _json(folder / SUMMARY)
        summary = summarize(journals, kept.get("error"))
        return FinishedRun(folder, journals, num_cut_off, {**kept, **summary}, folder.name)

    @cached_property
    def begins(self) -> dict[int, dict[str, Any]]:
        """Rank -> the first line of its journal, empty where it is missing."""
        return {
            rank: next((line for line in lines if line["e"] == "begin"), {}) for rank, lines in self.journals.items()
        }

    @cached_property
    def clocks(self) -> dict[int, RankClock]:
        """Rank -> the way from its clock to rank 0's, where it is known."""
        return rank_clocks(self.journals)

    @cached_property
    def chain(self) -> RunChain:
        """Lanes and edges in frame order."""
        return RunChain(self.begins)

    @cached_property
    def graphs(self) -> set[str]:
        """Names of the stages that run a graph."""
        return {graph for facts in self.begins.values() for graph in facts.get("graphs") or ()}

    @property
    def ranks(self) -> list[int]:
        """Ranks that left a journal."""
        return sorted(self.journals)

    @property
    def unknown_clocks(self) -> list[int]:
        """Ranks whose events cannot be put on rank 0's clock."""
        return [rank for rank in self.ranks if rank not in self.clocks]

    @property
    def edge_host_ranks(self) -> list[int]:
        """Ranks on rank 0's host; rank 0 alone where all share one machine, which then stands for the edge device."""
        hosts = {rank: self.begins[rank].get("host") for rank in self.ranks}
        if len(set(hosts.values())) < 2:
            return self.ranks[:1]
        return [rank for rank in self.ranks if hosts[rank] == hosts.get(0)]

    def rank_name(self, rank: int) -> str:
        """The rank's host; with the rank's number where ranks share it."""
        host = self.begins.get(rank, {}).get("host") or "unknown host"
        shared = sum(facts.get("host") == host for facts in self.begins.values()) > 1
        return f"{host}, rank {rank}" if shared else str(host)

    @cached_property
    def work(self) -> list[Work]:
        """Every stage on every frame."""
        return [
            Work(rank, line["n"], line["f"], clock.to_rank0(line["b"]), clock.to_rank0(line["t"]))
            for rank, clock, line in self._lines("stage")
        ]

    @cached_property
    def waits(self) -> list[Wait]:
        """Every wait of 0.1 ms and more."""
        return [
            Wait(rank, line["c"], line["n"], line["f"], clock.to_rank0(line["b"]), clock.to_rank0(line["t"]))
            for rank, clock, line in self._lines("wait")
        ]

    @cached_property
    def transfers(self) -> list[Transfer]:
        """Every frame that crossed ranks and arrived, by edge and time."""
        found: dict[str, list[tuple[int, int, int, int, bool]]] = {}
        for rank, clock, line in self._lines("transfer"):
            sender, receiver = (int(end) for end in line["n"].split(" ")[0].split("->"))
            if rank == receiver and sender in self.clocks and line["k"] in (Kind.FRAME, Kind.EMPTY):
                # In the receiver's journal, `b` is the sender's clock.
                posted = self.clocks[sender].to_rank0(line["b"])
                found.setdefault(line["n"], []).append(
                    (clock.to_rank0(line["t"]), posted, line["f"], line["s"], line["k"] == Kind.EMPTY)
                )
        transfers = []
        for edge, messages in found.items():
            before = 0
            for arrived, posted, frame, num_bytes, is_empty in sorted(messages):
                on_wire = min(max(posted, before), arrived)
                transfers.append(Transfer(edge, frame, num_bytes, posted, on_wire, arrived, is_empty))
                before = arrived
        return transfers

    @cached_property
    def outputs(self) -> list[Output]:
        """Frames with a result, in the order of their output; empty where a clock is not known."""
        return self._outputs(lambda fates: sorted(fates, key=lambda line: int(line["t"])))

    @cached_property
    def steady(self) -> list[Output]:
        """The same without the warm-up."""
        return self._outputs(timed_results)

    def _outputs(self, chosen: Callable[[Iterable[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]) -> list[Output]:
        source = next((facts["source_rank"] for facts in self.begins.values() if "source_rank" in facts), 0)
        fates = [(rank, line) for rank, _, line in self._lines("fate")]
        sink = next((rank for rank, line in fates if line["x"] in ("done", "empty")), None)
        if sink is None or source not in self.clocks:
            return []
        to_rank0, captured_to_rank0 = self.clocks[sink].to_rank0, self.clocks[source].to_rank0
        results = chosen(line for rank, line in fates if rank == sink and line["x"] in ("done", "empty"))
        return [Output(line["f"], captured_to_rank0(line["c"]), to_rank0(line["t"])) for line in results]

    @cached_property
    def steady_span(self) -> tuple[int, int]:
        """First and last output of `steady`; of all events where there are fewer than two results. (0, 0) for none."""
        if len(self.steady) > 1:
            return self.steady[0].output_ns, self.steady[-1].output_ns
        times = [time for work in self.work for time in (work.begin_ns, work.end_ns)]
        return (min(times), max(times)) if times else (0, 0)

    @cached_property
    def settings(self) -> dict[str, str]:
        """What was set for this run, by name; the same for its repeats."""
        first = next((facts for facts in self.begins.values() if facts), {})
        engines = sorted(
            {f"{facts['engine']} {facts['precision']}" for facts in self.begins.values() if facts.get("engine")}
        )
        threads = sorted({str(facts["threads"]) for facts in self.begins.values() if facts.get("threads")})
        told = _options((first.get("environment") or {}).get("command") or "")
        quality = told.pop("jpeg quality", None)
        found = {
            "placement": first.get("placement"),
            "detector": self._detector(first),
            **self._crossing(first, f" q{quality}" if quality else ""),
            "overlap": first.get("overlap"),
            "policy": first.get("policy"),
            "engine": ", ".join(engines),
            "threads": ", ".join(threads),
            "source": (self.summary.get("source") or {}).get("description"),
            **_recorded(self.folder),
            **told,
        }
        return {key: str(value) for key, value in found.items() if value}

    @cached_property
    def verdict(self) -> Verdict:
        """Whether its numbers have all proofs they need."""
        return judge_row(self.summary)

    @cached_property
    def predictions(self) -> list[tuple[str, float | None, float]]:
        """(what, measured, predicted) for what `prediction.json` says of this run: `fps`, and `delay_ms` (p50)."""
        predicted = _json(self.folder / PREDICTION)
        pairs = (
            ("throughput (FPS)", self.summary["fps"], predicted.get("fps")),
            ("delay p50 (ms)", self.summary["delay"].get("p50_ms"), predicted.get("delay_ms")),
        )
        return [(what, measured, float(value)) for what, measured, value in pairs if isinstance(value, int | float)]

    def _lines(self, event: str) -> Iterator[tuple[int, RankClock, dict[str, Any]]]:
        """Every line of one kind from ranks with a known clock."""
        for rank in self.ranks:
            if rank in self.clocks:
                for line in self.journals[rank]:
                    if line["e"] == event:
                        yield rank, self.clocks[rank], line

    def _crossing(self, first: Mapping[str, Any], quality: str) -> dict[str, str | None]:
        """What features travel as, the cut they come from, and what images travel as; none of it where nothing crosses."""
        names = [name.split(" ", 1)[1] for name in self.chain.edges()]
        images = [_IMAGES[name] for name in names if name in _IMAGES]
        tensors = [name.split("+")[0] for name in names if name not in _IMAGES and not name.startswith(_RESULTS)]
        features = [_WIRE_SUFFIX.sub("", name) for name in tensors]
        return {
            "wire": first.get("wire") if features else None,
            "cut": ", ".join(_CUTS.get(name, name) for name in features),
            "images": ", ".join(name + quality * (name == "JPEG") for name in images),
        }

    def _detector(self, first: Mapping[str, Any]) -> str | None:
        return first.get("detector") or (f"bundle {first['bundle'][:8]}" if first.get("bundle") else None)


def _recorded(folder: Path) -> dict[str, Any]:
    """What only the record of a sweep's run has."""
    record = _json(folder / _RECORD)
    settings = record.get("settings")
    size = settings.get("size") if isinstance(settings, dict) else None
    return {"scenario": record.get("scenario"), "size": size}


def _options(command: str) -> dict[str, str]:
    """What only the command line has: the link's rate and delay, the quality of a JPEG, a camera's rate."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    found = {}
    for name in ("--link-rate", "--link-delay", "--jpeg-quality", "--rate"):
        for index, word in enumerate(words):
            if word == name and index + 1 < len(words):
                found[name.removeprefix("--").replace("-", " ")] = words[index + 1]
            elif word.startswith(name + "="):
                found[name.removeprefix("--").replace("-", " ")] = word.partition("=")[2]
    return found


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    lines, num_bad = [], 0
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            num_bad += 1
            continue
        if isinstance(line, dict) and "e" in line:
            lines.append(line)
        else:
            num_bad += 1
    return lines, num_bad


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
