"""The verbs `bench ...`: measure."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..pipeline.errors import ConfigError
from .options import Json
from .verbs import app

bench = typer.Typer(invoke_without_command=True)
app.add_typer(bench, name="bench")


@bench.callback()
def bench_sweep(
    context: typer.Context,
    sweep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.toml", help="The grid; thesis and link-rates are shipped ones."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="With the file's table [quick]: few frames, small.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Folder; out/bench/NAME by default.")] = None,  # noqa: UP045
    source: Annotated[str, typer.Option(help="In place of every source of the file.")] = "",
    json: Json = False,
) -> int:
    """Measure: every cell of a grid as a real run (--sweep), or one of the commands below.

    A sweep that was stopped goes on with the same command; finished runs are kept. Exit code 1: a run failed, its row says why.

    Example: `splitrail bench --sweep link-rates --quick --out out/rates && splitrail report out/rates`
    """
    options = {"--sweep": sweep, "--quick": quick, "--out": out, "--source": source, "--json": json}
    given = [name for name, value in options.items() if value]
    if context.invoked_subcommand is not None:
        if given:
            command = context.invoked_subcommand
            raise ConfigError(
                f"{given[0]} before {command!r} is of a sweep; put it behind, or leave one of the two out"
            )
        return 0
    if sweep is None:
        if given:
            raise ConfigError(
                f"{given[0]} is of a sweep and there is none; give --sweep FILE.toml, or thesis or link-rates"
            )
        print(context.get_help())
        return 0
    from .bench_sweep import sweep_verb

    command = shlex.join(["splitrail", *sys.argv[1:]])
    return sweep_verb(sweep, out, source, command, quick=quick, as_json=json)
