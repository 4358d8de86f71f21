"""A window that shows the results while they come."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import cv2

from ...pipeline.errors import SinkError
from .result import Result

_TITLE = "splitrail"
_PROBE = "import cv2; cv2.namedWindow('splitrail'); cv2.waitKey(1); cv2.destroyAllWindows()"
_PROBE_TIMEOUT_S = 20


class ShowWriter:
    """Shows each picture; the key q or Escape calls `on_quit`.

    Raises SinkError where this host has no display that OpenCV can use.
    """

    draws = True
    path = ""

    def __init__(self, on_quit: Callable[[], None] | None = None) -> None:
        self._on_quit = on_quit
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError(
                "there is no display to show a window on (DISPLAY is not set); leave --show out, or write a video"
            )
        # A window toolkit that finds no display ends its process: another one has to try.
        try:
            probe = subprocess.run(
                [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SinkError(
                f"the display did not open a window within {_PROBE_TIMEOUT_S} s; leave --show out"
            ) from error
        if probe.returncode != 0:
            lines = probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"]
            headless = "not implemented" in probe.stderr
            remedy = "install opencv-python instead of opencv-python-headless" if headless else "leave --show out"
            raise SinkError(f"no window can be opened on the display ({lines[0]}); {remedy}")

    def write(self, result: Result) -> None:
        assert result.picture is not None
        cv2.imshow(_TITLE, result.picture)
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27) and self._on_quit is not None:
            self._on_quit()

    def flush(self) -> None:
        cv2.waitKey(1)

    def close(self, hurried: bool) -> None:
        cv2.destroyAllWindows()
