"""A running mpirun: its lines, its orderly end, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from ..pipeline.errors import HostError
from .abort_text import AbortText

TERM_GRACE_S = 3.0
"""How long mpirun has after SIGTERM; it needs 1 s. A daemon on another host ends its ranks when mpirun is gone."""
_ORPHAN_GRACE_S = 0.3
"""Ranks that mpirun has just ended may still be on their way out."""
_POLL_S = 0.05

# Ends mpirun when whoever started it is gone, however that happened: its standard input is then at its end.
_GUARD = r"""
read -r word
[ "$word" = done ] && exit
kill -TERM "$1"
for _ in 1 2 3 4 5 6; do
    kill -0 "$1" || break
    sleep 0.5
done
for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" || continue
    pid=${line%% *}
    set -- "$1" ${line##*) }
    [ "$5" = "$1" ] && kill -KILL "$pid"
done
""".strip()


class MpirunProcess:
    """mpirun in a session of its own: an interrupt from the terminal does not reach it, the owner decides what to do.

    All its local ranks stay in that session, which is how strays are found. Use it in a `with` block, which ends it.
    """

    def __init__(
        self,
        command: Sequence[str],
        on_line: Callable[[str, bool], None],
        *,
        log_path: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start `command`. Every line of the ranks goes to `on_line(line, is_error)`, from two threads, one per stream,
        and must not raise; what Open MPI says itself goes to `log_path`. Raises HostError where the command cannot be started."""
        self._on_line = on_line
        self._abort = AbortText()
        self._log: IO[str] | None = log_path.open("w", encoding="utf-8") if log_path is not None else None
        self._log_path = log_path
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            self._close_log()
            raise HostError(
                f"{command[0]} cannot be started ({error.strerror}); check the installation of MPI"
            ) from error
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, is_error), name="mpirun-lines", daemon=True)
            for stream, is_error in ((self._process.stdout, False), (self._process.stderr, True))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id of mpirun, also the id of its session."""
        return self._process.pid

    def wait(self, timeout_s: float | None = None) -> int | None:
        """mpirun's exit code once it has ended and all lines are delivered; None where `timeout_s` passed before.

        A negative code is the signal that ended mpirun itself. Exit code 0 alone does not prove that the ranks ended well.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._clear_up()
        return code

    def stop_gracefully(self) -> None:
        """Ask the ranks to end well: mpirun hands SIGUSR1 on to all of them, on all hosts.

        A rank that has not set its handler yet is ended by the signal, so call this once the ranks have said something.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)

    def terminate(self) -> None:
        """End it now: SIGTERM, upon which mpirun ends its ranks; after 3 s SIGKILL for all that is left of it here."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TERM_GRACE_S)
        if self._process.poll() is None:
            _kill_session(self.pid)
            self._process.wait()
        self._clear_up()

    def failure(self) -> str | None:
        """Why it failed, in one sentence; None while it runs and where nothing speaks of a failure."""
        code = self._process.poll()
        if code is None:
            return None
        said = self._abort.sentence()
        if said is not None or code == 0:
            return said
        where = f"; what it said is in {self._log_path}" if self._log_path is not None else ""
        if code < 0:
            return f"mpirun ended on signal {-code} ({signal.strsignal(-code)}){where}"
        return f"mpirun ended with exit code {code}{where}"

    def __enter__(self) -> MpirunProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def _read(self, stream: IO[str], is_error: bool) -> None:
        with stream:
            for raw in stream:
                line = raw.rstrip("\n").replace("\0", "")
                if is_error and (self._abort.is_chatter(line) or not line.strip()):
                    if self._log is not None:
                        self._log.write(line + "\n")
                        self._log.flush()
                else:
                    self._on_line(line, is_error)

    def _clear_up(self) -> None:
        """After mpirun's end: no rank stays, all lines are delivered, the guard goes."""
        if self._guard.stdin is None or self._guard.stdin.closed:
            return
        deadline = time.monotonic() + _ORPHAN_GRACE_S
        while _session(self.pid) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        _kill_session(self.pid)
        # Open MPI 5 keeps its sockets here; it takes them away itself unless it was killed.
        shutil.rmtree(Path(tempfile.gettempdir()) / f"ompi.{self.pid}", ignore_errors=True)
        for reader in self._readers:
            reader.join(TERM_GRACE_S)
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(b"done\n")
            self._guard.stdin.flush()
        self._guard.stdin.close()
        self._guard.wait()
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def _session(leader: int) -> list[int]:
    """Ids of the living processes in a session."""
    members = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
        except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            continue
    return members


def _kill_session(leader: int) -> None:
    """SIGKILL to every process of a session, until none is left."""
    deadline = time.monotonic() + TERM_GRACE_S
    while (members := _session(leader)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
