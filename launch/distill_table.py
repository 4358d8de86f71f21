"""The verb `distill table`: every experiment of a teacher in a row, within a budget of time, and the table of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..pipeline.errors import ConfigError
from .distill import require_torch
from .table_bench import SCENES, TableBench
from .table_plan import QUICK, TablePlan


def table_verb(
    teacher: str,
    out: Path,
    parts: Sequence[str],
    quick: bool,
    minutes: float | None,
    epochs: int | None,
    data: str | None,
    validation: str | None,
    held_out: str | None,
    device: str,
    threads: int,
    processes: int,
    console: Console,
) -> int:
    """Run what `out` does not have yet, and write the tables and figures there; returns the exit code.

    What does not fit into `minutes`, from now on, is named in the table as missing, and a second call goes on with it. Trained
    and measured on generated scenes, or on folders. Raises UsageErrors as `distill_verb`, and for a part that there is not.
    """
    require_torch()
    from ..distill.published import PARTS
    from ..distill.results_table import write_table

    begin = time.monotonic()
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"there is no part {unknown[0]!r} of the table; choose among {', '.join(PARTS)}")
    if minutes is not None and minutes <= 0:
        raise ConfigError(f"nothing fits into {minutes:g} minutes; give --minutes more")
    plan = QUICK if quick else TablePlan()
    plan = plan if epochs is None else replace(plan, epochs=epochs)
    sources = {"train": data or SCENES, "validation": validation or SCENES, "held_out": held_out or SCENES}
    until = None if minutes is None else begin + 60 * minutes
    bench = TableBench(teacher, out, plan, sources, device, threads, processes, console, until)
    every = [bench.part(part) for part in PARTS if not parts or part in parts]
    options = "".join(f" --part {part}" for part in parts) + (" --quick" if quick else "")
    options += f" --epochs {epochs}" if epochs is not None else ""
    options += "".join(
        f" --{name} {value}"
        for name, value in (("data", data), ("validation", validation), ("held-out", held_out))
        if value is not None
    )
    heading = (
        f"Made by `splitrail distill table --teacher {teacher}{options} --out {out}`, on {bench.num_images} images held out"
        f"{' (the quick form: it shows that all of it runs, not what it can reach)' if quick else ''}.",
    )
    print(write_table(every, out, heading))
    for results in every:
        for missing in results.missing:
            console.print(f"not there: {missing}", highlight=False)
    return 0
