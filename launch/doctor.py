"""What each host has, whether the hosts fit together, and how fast the link between them is."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..pipeline.errors import HostError
from .host_probe import HostProbe
from .hostfile import Host, Hosts
from .link_probe import TIMEOUT_S
from .probe import compare_versions, try_hosts
from .remote_shell import RemoteShell, end, kill


@dataclass(frozen=True)
class LinkReport:
    """Plain TCP from one host to another."""

    source: str
    target: str
    round_trip_ms: float | None = None
    """Median."""
    rate_bit_per_s: float | None = None
    """Goodput."""
    problem: str | None = None


@dataclass(frozen=True)
class Examination:
    """What `examine` found."""

    probes: dict[str, HostProbe]
    problems: dict[str, str]
    """Host -> why it could not be asked."""
    mismatch: str | None
    """Why the hosts cannot run together; None where they can."""
    links: list[LinkReport] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Whether a run over these hosts can start."""
        return not self.problems and self.mismatch is None and all(link.problem is None for link in self.links)

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {**asdict(self), "is_healthy": self.is_healthy}


def doctor(hosts: Hosts | None = None, *, as_json: bool = False, agent: str | Path | None = None) -> int:
    """Examine the hosts (None: this one) and print it; the exit code is 2 where a run over them could not start."""
    result = examine(hosts, agent)
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        _print(result, Console())
    return 0 if result.is_healthy else HostError.exit_code


def examine(hosts: Hosts | None = None, agent: str | Path | None = None) -> Examination:
    """Ask every host, compare them, and measure the link from the first one to each other. All of it is time-limited."""
    if hosts is None:
        hosts = Hosts((Host(socket.gethostname()),), None, "this machine")
    answers = try_hosts(hosts, agent)
    probes = {name: answer for name, answer in answers.items() if isinstance(answer, HostProbe)}
    problems = {name: str(answer) for name, answer in answers.items() if isinstance(answer, HostError)}
    mismatch = None
    try:
        compare_versions(probes)
    except HostError as error:
        mismatch = str(error)
    first, *others = hosts
    links = [
        _measure_link(RemoteShell(agent), first, other, hosts.network)
        for other in others
        if first.name in probes and other.name in probes
    ]
    return Examination(probes, problems, mismatch, links)


def _measure_link(shell: RemoteShell, source: Host, target: Host, network: str | None) -> LinkReport:
    server = shell.start(target, "launch.link_probe", "serve", *([network] if network else []))
    limit = threading.Timer(TIMEOUT_S, kill, [server])
    limit.start()
    try:
        assert server.stdout is not None
        # A login script may have its say first.
        line = next((line for line in server.stdout if line.startswith("{")), None)
        limit.cancel()
        if line is None:
            raise HostError(f"host {target.name} does not open a TCP port; install the same splitrail there")
        place = json.loads(line)
        address = place["address"] or target.name
        # Connecting, sending and draining have a limit each.
        text = shell.run(source, "launch.link_probe", "connect", address, str(place["port"]), timeout_s=3 * TIMEOUT_S)
        measured = json.loads(text.splitlines()[-1])
        return LinkReport(source.name, target.name, measured["round_trip_ms"], measured["rate_bit_per_s"])
    except HostError as error:
        return LinkReport(source.name, target.name, problem=str(error))
    except (ValueError, LookupError):
        problem = f"{source.name} and {target.name} do not measure their link alike; install the same splitrail on both"
        return LinkReport(source.name, target.name, problem=problem)
    finally:
        limit.cancel()
        end(server)


def _print(result: Examination, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in result.probes:
        table.add_column(name, overflow="fold")
    for label, cells in _rows(list(result.probes.values())):
        if any(cells):
            table.add_row(label, *(escape(cell) or "-" for cell in cells))
    if result.probes:
        console.print(table)
    for link in result.links:
        if link.problem is None:
            rate_mbit = (link.rate_bit_per_s or 0.0) / 1e6
            console.print(
                f"{link.source} -> {link.target}: round trip {link.round_trip_ms:.2f} ms, TCP {rate_mbit:.1f} Mbit/s"
            )
    problems = [*result.problems.values(), *(link.problem for link in result.links if link.problem), result.mismatch]
    for problem in filter(None, problems):
        console.print(f"problem: {problem}", style="red", soft_wrap=True, markup=False)
    if result.is_healthy:
        console.print("nothing speaks against a run")


def _rows(probes: Sequence[HostProbe]) -> list[tuple[str, list[str]]]:
    def named(values: dict[str, str]) -> str:
        return "\n".join(f"{name} {value}" for name, value in values.items())

    return [
        ("host name", [probe.hostname for probe in probes]),
        ("architecture", [probe.machine for probe in probes]),
        ("device", [probe.model or "" for probe in probes]),
        ("CPU", [f"{probe.num_cpus} x {probe.cpu or 'unknown'}" for probe in probes]),
        ("governor", [probe.governor or "" for probe in probes]),
        ("memory", [f"{probe.memory_bytes / 2**30:.1f} GiB" for probe in probes]),
        ("GPU", ["\n".join(probe.cuda_devices) for probe in probes]),
        ("Python", [probe.python for probe in probes]),
        ("splitrail", [probe.splitrail for probe in probes]),
        ("mpirun", [f"Open MPI {probe.mpi}" if probe.mpi else "none" for probe in probes]),
        ("mpi4py", [f"{probe.mpi4py} with {probe.mpi_library}" if probe.mpi4py else "none" for probe in probes]),
        ("engines", [named(probe.engines) for probe in probes]),
        ("runs graphs", [named(probe.graph_engines) for probe in probes]),
        ("CUDA compiler", [probe.nvcc or "" for probe in probes]),
        ("Jetson", [named(_jetson(probe)) for probe in probes]),
        ("power sensors", [named(probe.sensors) for probe in probes]),
        ("congestion control", [probe.congestion_control or "" for probe in probes]),
    ]


def _jetson(probe: HostProbe) -> dict[str, str]:
    """A Jetson's facts, a line each; none on other hosts."""
    facts = probe.jetson
    if facts is None:
        return {}
    clocks = ", ".join(f"{unit} {clock_mhz:.0f} MHz" for unit, clock_mhz in facts["max_clocks_mhz"].items())
    warm = ", ".join(f"{zone} {celsius:.0f} C" for zone, celsius in (probe.temperatures_c or {}).items())
    return {
        "L4T": facts["release"] or "unknown",
        "power mode": facts["power_mode"] or "unknown",
        "clocks up to": clocks or "unknown",
        "temperatures": warm or "unknown",
        "memory": "shared by CPU and GPU",
    }
