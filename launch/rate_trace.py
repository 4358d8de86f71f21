"""A link whose rate changes while a run goes on: what was asked for, and the thread that does it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..bench.journal import read_journal
from ..bench.link_steps import LINK_STEPS
from ..pipeline.clock import now_ns
from ..pipeline.errors import ConfigError
from .shaping import parse_rate

_POLL_S = 0.05


class RateLink(Protocol):
    """A link in use whose rate can be changed (`netns.TwoHosts`)."""

    def set_rate(self, link_rate: str | None) -> None:
        """As `tc` spells it."""


@dataclass(frozen=True, slots=True)
class RateTrace:
    """Rates and when they begin, s after the first frame was captured; the first at 0."""

    steps: tuple[tuple[str, float], ...] = ()

    @staticmethod
    def parse(text: str) -> RateTrace:
        """From "100mbit:0,8mbit:10,2mbit:20"; empty text is no trace. Raises ConfigError."""
        steps = []
        for item in filter(None, (item.strip() for item in text.split(","))):
            rate, _, second = item.partition(":")
            parse_rate(rate)
            try:
                steps.append((rate, float(second)))
            except ValueError as error:
                raise ConfigError(
                    f"{item!r} is no step of the link's rate; give a rate and a second, such as 8mbit:10"
                ) from error
        seconds = [second for _, second in steps]
        if steps and (seconds[0] != 0 or seconds != sorted(set(seconds))):
            raise ConfigError(
                f"the steps of the link's rate begin at the seconds {', '.join(f'{s:g}' for s in seconds)}; the first must be "
                "at 0, and each later than the one before"
            )
        return RateTrace(tuple(steps))

    @property
    def first(self) -> str | None:
        """The rate at the start; None without a trace."""
        return self.steps[0][0] if self.steps else None

    @property
    def slowest(self) -> str | None:
        """The slowest of its rates; None without a trace."""
        return min((rate for rate, _ in self.steps), key=parse_rate, default=None)

    @contextmanager
    def playing(self, link: RateLink | None, out: Path) -> Iterator[None]:
        """Inside, the rate of `link` follows the trace from the first captured frame of the run that writes its journals into
        `out`; when each step was really made goes to `out/link.json`. A step that fails ends the trace, and raises at the end.
        """
        if not self.steps or link is None:
            yield
            return
        player = _Player(self, link, out)
        player.start()
        try:
            yield
        finally:
            player.stop()
        if player.error is not None:
            raise player.error


class _Player:
    def __init__(self, trace: RateTrace, link: RateLink, out: Path) -> None:
        self._trace = trace
        self._link = link
        self._out = out
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """Watch for the first frame from now on."""
        self._thread.start()

    def stop(self) -> None:
        """The run has ended; steps to come are left out."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            first_ns = None
            while first_ns is None:
                if self._ended.wait(_POLL_S):
                    return
                first_ns = _first_capture_ns(self._out)
            done: list[dict[str, object]] = []
            for number, (rate, second) in enumerate(self._trace.steps):
                due_ns = first_ns + round(second * 1e9)
                if self._ended.wait(max(0, due_ns - now_ns()) / 1e9):
                    return
                if number:  # the first rate is there from the start
                    self._link.set_rate(rate)
                begin_ns = now_ns() if number else first_ns
                done.append({"rate": rate, "rate_bit_per_s": parse_rate(rate), "second": second, "at_ns": begin_ns})
                path = self._out / LINK_STEPS
                partial = path.with_name(path.name + ".partial")
                partial.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
                os.replace(partial, path)
        except Exception as error:
            self.error = error


def _first_capture_ns(out: Path) -> int | None:
    """When the first frame was captured; all ranks share this machine's clock. None before a journal tells it."""
    for path in sorted(out.glob("journal-rank*.jsonl")):
        for line in read_journal(path):
            if line["e"] == "stage" and line["n"] == "capture":
                return int(str(line["b"]))
    return None
