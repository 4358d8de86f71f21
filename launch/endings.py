"""How an error ends a process: one line and an exit code."""

from __future__ import annotations

from ..pipeline.errors import SplitrailError


def exit_code(error: BaseException) -> int:
    """What the process ends with for `error`."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, SplitrailError) else 1


def one_line(error: BaseException) -> str:
    """The error as one line for the terminal; errors that are not ours carry their type's name."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, SplitrailError) else f"{type(error).__name__}: {text}"
