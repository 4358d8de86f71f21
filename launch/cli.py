"""The command `splitrail`. Verbs are thin: they read options, call, print, and end with 0, 1 (failed) or 2 (mendable)."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from ..pipeline.errors import SplitrailError
from .endings import exit_code, one_line
from .stop_request import StopRequest


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["rank"]:
        # Started once per rank and per run: it does without the command line library.
        config, stop = _config_of(arguments[1:]), StopRequest()
        from .rank import main as rank_main

        return rank_main(config, stop)
    import typer

    from .verbs import app

    # Newer typer brings its own copy of click, so its errors are found through a public name of typer's.
    command_line_error: type[Exception] = typer.BadParameter.__mro__[2]
    before = signal.signal(signal.SIGTERM, _end)
    try:
        result = typer.main.get_command(app)(args=arguments, prog_name="splitrail", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except command_line_error as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("splitrail: interrupted", file=sys.stderr)
        return 130
    except SplitrailError as error:
        print(f"splitrail: {one_line(error)}", file=sys.stderr)
        return exit_code(error)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    # As an exception, so that a verb which has started runs of its own ends them before it goes.
    raise SystemExit(128 + number)


def _config_of(arguments: list[str]) -> str | None:
    """FILE of `--config FILE`, the only option of `rank`."""
    if not arguments:
        return None
    if len(arguments) == 2 and arguments[0] == "--config":
        return arguments[1]
    print(
        "usage: splitrail rank [--config FILE]\n\nStarted by mpirun, one per rank; rank 0 needs the file, for instance\n"
        "  mpirun -np 1 --host edge splitrail rank --config run.toml : -np 1 --host workstation splitrail rank",
        file=sys.stderr if arguments not in (["--help"], ["-h"]) else sys.stdout,
    )
    raise SystemExit(0 if arguments in (["--help"], ["-h"]) else 2)
