"""One run of a sweep: from a cell to a finished run's folder. It is what `splitrail run` with the same options does."""

from __future__ import annotations

import contextlib
import math
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bench.record import Record
from ..bench.scenario import run_options
from ..bench.summary import SUMMARY
from ..bench.sweep_cell import Cell
from ..bench.sweep_file import Trial
from ..bench.sweep_row import RECORD
from ..pipeline.errors import ConfigError, SplitrailError
from .config import RunConfig, read_mapping
from .endings import one_line
from .link import Link
from .run import start
from .shaping import parse_rate

LOG = "run.log"
_OFFLOAD, _OFFLOAD_RAW = "offload", "offload-raw"
_OWN = "splitrail: "


@dataclass(frozen=True, slots=True)
class PreparedCell:
    """A cell with its detector at hand."""

    cell: Cell
    bundle: Path
    engine: str
    """Never auto: decided once for the sweep."""
    trained: str
    """Where the weights come from; empty for random ones."""

    def run(self, trial: Trial, out: Path) -> str:
        """Run it in `out`, which is emptied first; returns why it failed, empty when it did not.

        Raises KeyboardInterrupt where the run was interrupted.
        """
        shutil.rmtree(out, ignore_errors=True)
        try:
            out.mkdir(parents=True)
            log = (out / LOG).open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{out} cannot be written ({error.strerror}); give another folder with --out") from error
        try:
            # What the ranks say belongs to the run; the terminal is the sweep's.
            with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                code = start(
                    run_config(self, out), link=link_of(self.cell, (self.bundle.absolute(),)), show_table=False
                )
        except SplitrailError as error:
            return one_line(error)
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            return _reason(out)
        settings = {**self.cell.settings, "repeat": trial.repeat, "weights": self.trained}
        try:
            Record.of_run(out, self.cell.folder, settings, scenario=self.cell.scenario).save(out / RECORD)
        except SplitrailError as error:
            return one_line(error)
        return ""


def run_config(prepared: PreparedCell, out: Path) -> RunConfig:
    """The configuration of a cell's run. Raises ConfigError for a setting that no run takes."""
    cell = prepared.cell
    placement = _OFFLOAD_RAW if cell.placement == _OFFLOAD and cell.jpeg_quality is None else cell.placement
    raw: dict[str, Any] = {
        "source": {"uri": cell.source, "max_frames": cell.frames, "rate_fps": cell.rate_fps},
        "sink": {"video": False},
        "out": str(out),
        "bundle": str(prepared.bundle),
        "placement": placement,
        "engine": prepared.engine,
        "device": cell.device,
        "threads": cell.threads,
        "wire": cell.wire,
        "image_wire": "raw" if cell.jpeg_quality is None else "jpeg",
        "jpeg_quality": cell.jpeg_quality or RunConfig.model_fields["jpeg_quality"].default,
        "filter": cell.filter,
        "overlap": cell.overlap,
        "score_threshold": cell.score_threshold,
        "measure_power": cell.measure_power,
        **run_options(cell.scenario),
    }
    return RunConfig.check({**raw, "command": _command(raw, cell)}, f"the cell {cell.folder}")


def link_of(cell: Cell, keep: tuple[Path, ...] = ()) -> Link:
    """The link of a cell; the far host has the folders of `keep` too. Raises ConfigError."""
    return Link(cell.has_link, cell.link_rate or None, cell.link_delay or None, keep)


def link_numbers(cell: Cell) -> tuple[float, float]:
    """Rate in bit/s, infinite where it is not limited, and one-way delay in ms. Raises ConfigError."""
    return float(parse_rate(cell.link_rate)) if cell.link_rate else math.inf, link_of(cell).delay_ms


def _command(raw: dict[str, Any], cell: Cell) -> str:
    """The same run by hand."""
    words: dict[str, Any] = {
        "placement": raw["placement"],
        "bundle": raw["bundle"],
        "source": cell.source,
        "max-frames": cell.frames,
        "rate": cell.rate_fps,
        "engine": raw["engine"],
        "device": cell.device,
        "threads": cell.threads,
        "wire": cell.wire,
        "image-wire": raw["image_wire"],
        "jpeg-quality": cell.jpeg_quality,
        "overlap": cell.overlap,
        "policy": raw["policy"],
        "score-threshold": cell.score_threshold,
        "link-rate": cell.link_rate or None,
        "link-delay": cell.link_delay or None,
        "out": raw["out"],
    }
    options = [word for name, value in words.items() if value is not None for word in (f"--{name}", str(value))]
    flags = {
        "--netns": cell.has_link,
        "--single-stream": bool(raw.get("single_stream")),
        "--measure-power": cell.measure_power,
        "--filter": cell.filter is True,
        "--no-filter": cell.filter is False,
        "--no-video": True,
    }
    return shlex.join(["splitrail", "run", *options, *(flag for flag, is_set in flags.items() if is_set)])


def _reason(out: Path) -> str:
    """Of a run that ended with an error: what its summary says, else the last thing that it said."""
    with contextlib.suppress(ConfigError):
        error = read_mapping(out / SUMMARY).get("error")
        if error:
            return str(error)
    lines = (out / LOG).read_text(encoding="utf-8").splitlines()
    said = [line.removeprefix(_OWN) for line in lines if line.startswith(_OWN)]
    return said[-1] if said else f"the ranks did not end well; see {out / LOG}"
