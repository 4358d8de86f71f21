"""A text file that grows by whole lines."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ...pipeline.errors import SinkError

_MAX_WAITING = 256


class LineFile:
    """Appends lines, written in whole lines only, so that the file of a killed run ends with a complete one.

    Raises SinkError where the file cannot be made or grown.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[str] = []
        self._num_bytes = 0
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, line: str) -> None:
        """Take one line, without its end."""
        self._waiting.append(line + "\n")
        if len(self._waiting) >= _MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        data = "".join(self._waiting).encode()
        self._waiting.clear()
        num_written = 0
        try:
            while num_written < len(data):
                num_written += self._file.write(data[num_written:])
        except OSError as error:
            whole = self._num_bytes + data.rfind(b"\n", 0, num_written) + 1
            with suppress(OSError):
                self._file.truncate(whole)
            raise cannot_write(self._path, error) from error
        self._num_bytes += num_written

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self._file.close()


def cannot_write(path: Path, error: OSError) -> SinkError:
    """The error to raise where the file or folder `path` cannot be written."""
    reason = error.strerror or str(error)
    return SinkError(f"{path} cannot be written: {reason}; make room or give another output folder")
