"""What an engine says while it takes its time to open: lines on standard error with a mark, so that whoever started this
process can tell them from complaints."""

from __future__ import annotations

import sys

MARK = "engine: "


def say(text: str) -> None:
    """One line, at once."""
    print(f"{MARK}{text}", file=sys.stderr, flush=True)
