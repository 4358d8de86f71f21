"""Run a module of this package on a host: here directly, elsewhere through ssh or what takes its place."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..pipeline.errors import HostError
from .hostfile import Host

_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")


@dataclass(frozen=True, slots=True)
class RemoteShell:
    """How other hosts are reached. `agent` is called like ssh, for every host; None is ssh itself."""

    agent: str | Path | None = None

    def command(self, host: Host, module: str, *arguments: str) -> list[str]:
        """The command that runs `python -m splitrail.MODULE ARGUMENT...` on `host`."""
        program = [host.python or sys.executable, "-m", f"splitrail.{module}", *arguments]
        if self.agent is not None:
            return [str(self.agent), host.name, shlex.join(program)]
        return program if host.is_here else [*_SSH, host.name, shlex.join(program)]

    def start(self, host: Host, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start it with its three standard streams as pipes, in a session of its own."""
        try:
            return subprocess.Popen(
                self.command(host, module, *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(
                f"host {host.name}: {error.filename}: {error.strerror}; install it, or name it rightly"
            ) from error

    def run(self, host: Host, module: str, *arguments: str, timeout_s: float) -> str:
        """Run it to its end and return what it printed. Raises HostError that names the host, the reason and the remedy."""
        process = self.start(host, module, *arguments)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise HostError(
                f"host {host.name} has not answered within {timeout_s:g} s; check that it is on and that "
                f"'ssh {host.name} true' works without a password"
            ) from error
        finally:
            end(process)
        if process.returncode != 0:
            raise HostError(self.explain(host, process.returncode, stderr))
        return stdout

    def explain(self, host: Host, code: int, stderr: str) -> str:
        """One sentence for a command that failed on a host."""
        python = host.python or sys.executable
        last = (stderr.strip().splitlines() or [f"exit code {code}"])[-1]
        if code == 255:
            return (
                f"host {host.name} does not answer ({last}); check that it is on and that "
                f"'ssh {host.name} true' works without a password"
            )
        if code in (126, 127):
            return f"host {host.name} has no interpreter at {python}; name it with python= in the hostfile"
        if "No module named" in last:
            return f"host {host.name}: {python} has no splitrail ({last}); install it there: {python} -m pip install splitrail"
        return f"host {host.name}: {last}"


def kill(process: subprocess.Popen[str]) -> None:
    """Kill what `start` started, with its children here. What runs elsewhere sees the end of its input."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def end(process: subprocess.Popen[str]) -> None:
    """Kill it, close its pipes and wait for it."""
    kill(process)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    process.wait()
