"""What TensorRT says, and what it means: it answers with None or False and puts the reason into a log."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from ....pipeline.errors import EngineError

_MAX_REASON = 300
_PREFIX = re.compile(r"^(\[[^\]]*\]\s*)?(\d+:\s*)?(\[[^\]]*\]\s*)?")
_CAUSES = (
    (
        r"out ?of ?memory|could not be allocated|insufficient memory",
        "end what else uses the GPU, or take fp16 or a smaller size",
    ),
    (r"plugin", "its plugin library is not installed: take another engine, or export the bundle without that operator"),
)
_VERSION = re.compile(
    r"not compatible with this version|expecting .*version|version tag does not match|magic ?tag|different (?:device|compute)",
    re.IGNORECASE,
)


class Log:
    """Collects the errors that TensorRT logs. Take `of`: TensorRT keeps a bare pointer to the first one it is given."""

    def __init__(self, tensorrt: Any) -> None:
        errors: list[str] = []
        severity = tensorrt.ILogger.Severity

        class Listener(tensorrt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                tensorrt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in (severity.ERROR, severity.INTERNAL_ERROR):
                    errors.append(text)

        self.listener = Listener()
        """The `tensorrt.ILogger`."""
        self._errors = errors

    @staticmethod
    @cache
    def of(tensorrt: Any) -> Log:
        """The one of this process, which lives as long as that does."""
        return Log(tensorrt)

    def forget(self) -> None:
        """What comes from now on belongs to the next step."""
        self._errors.clear()

    def error(self, what: str, remedy: str, detail: str = "") -> EngineError:
        """An error that says `what` could not be done, TensorRT's own reason, and what to do.

        `remedy` is for a reason that none of the known ones fits; `detail` is what it says elsewhere.
        """
        # The first error is the cause, those after it say that a caller failed as well.
        found = [_PREFIX.sub("", " ".join(text.split())) for text in (*self._errors[:1], detail) if text]
        reason = ": ".join(dict.fromkeys(found)) or "it gives no reason"
        if len(reason) > _MAX_REASON:
            reason = reason[:_MAX_REASON] + " ..."
        known = (advice for pattern, advice in _CAUSES if re.search(pattern, reason, re.IGNORECASE))
        return EngineError(f"{what} ({reason.rstrip('. ')}); {next(known, remedy)}")

    @property
    def is_about_version(self) -> bool:
        """Whether an error so far is that of an engine which another TensorRT or another GPU has made."""
        return any(_VERSION.search(text) for text in self._errors)
