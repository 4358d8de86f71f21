"""Hostfiles: which hosts a run may use. Plain `mpirun --hostfile` reads the same files.

    #: network=192.168.55.0/24
    tx2          slots=1  #: role=edge python=/opt/splitrail/bin/python prefix=/opt/openmpi
    workstation  slots=2  #: role=workstation

What follows `#:` is ours and a comment to mpirun; any other comment is prose. Values with spaces are quoted as in a shell.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ..pipeline.errors import ConfigError

HOSTFILES = Path(__file__).parent.parent / "hostfiles"
Role = Literal["edge", "workstation"]
_HOST_KEYS = ("role", "python", "prefix")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Host:
    """One line of a hostfile."""

    name: str
    slots: int = 1
    """How many ranks may run there."""
    role: Role | None = None
    python: str | None = None
    """Interpreter on that host; None: the same path as here."""
    prefix: str | None = None
    """Folder of Open MPI on that host, the one with bin/mpirun; None: the same path as here."""

    @property
    def is_here(self) -> bool:
        """Whether this is the host we run on."""
        here = socket.gethostname()
        return self.name in ("localhost", here, here.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Hosts:
    """A hostfile, or the two hosts of `TwoHosts`."""

    hosts: tuple[Host, ...]
    network: str | None = None
    """The network between them as CIDR; several are joined by commas. None: not known."""
    origin: str = "hostfile"
    """Where they come from, for messages."""

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)

    def find(self, name: str) -> Host:
        """The host of this name. Raises ConfigError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise ConfigError(f"{self.origin} has no host {name!r}; it has {', '.join(host.name for host in self.hosts)}")

    def with_role(self, role: Role) -> tuple[Host, ...]:
        """The hosts of this role, in the file's order."""
        return tuple(host for host in self.hosts if host.role == role)

    @staticmethod
    def load(name: str | Path) -> Hosts:
        """Read a hostfile by its path, or a shipped one by its name. Raises ConfigError with the line number."""
        path = Path(name)
        if not path.exists() and "/" not in str(name):
            shipped = HOSTFILES / f"{path.stem}.txt"
            path = shipped if shipped.exists() else path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            names = ", ".join(sorted(file.stem for file in HOSTFILES.glob("*.txt")))
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"hostfile {path} cannot be read ({reason}); give a file, or one of {names}") from error
        return Hosts.parse(text, str(path))

    @staticmethod
    def parse(text: str, origin: str) -> Hosts:
        """From the text of a hostfile; `origin` names it in errors. Raises ConfigError with the line number."""
        hosts: list[Host] = []
        network: str | None = None
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{origin} line {number}"
            plain, is_ours, ours = line.partition("#:")
            if "#" in plain:
                plain, is_ours, ours = plain.partition("#")[0], "", ""
            words = plain.split()
            pairs = _pairs(ours, where) if is_ours else {}
            if words:
                host = _host(words, pairs, where)
                if any(other.name == host.name for other in hosts):
                    raise ConfigError(f"{where}: {host.name} is there twice; give it one line with more slots")
                hosts.append(host)
            elif pairs:
                _known(pairs, ("network",), where)
                if network is not None:
                    raise ConfigError(f"{where}: the network is given twice; join several with commas")
                network = _network(pairs["network"], where)
        if not hosts:
            raise ConfigError(f"{origin} names no host; write one per line, like 'workstation slots=1'")
        return Hosts(tuple(hosts), network, origin)


def _host(words: list[str], pairs: dict[str, str], where: str) -> Host:
    name, slots = words[0], 1
    if _is_address(name):
        raise ConfigError(
            f"{where}: {name} is an address and Open MPI 5.0.8 does not place ranks by address; "
            "give it a name in /etc/hosts and write that"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is not a host name; a user or a port belongs into ~/.ssh/config")
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key not in ("slots", "max_slots", "max-slots"):
            raise ConfigError(f"{where}: unknown key {key!r}; before '#:' it is slots=N, the other keys come behind it")
        if not value.isascii() or not value.isdigit() or int(value) < 1:
            raise ConfigError(f"{where}: {key} must be a whole number from 1, not {value!r}")
        slots = int(value) if key == "slots" else slots
    _known(pairs, _HOST_KEYS, where)
    role = pairs.get("role")
    if role not in (None, "edge", "workstation"):
        raise ConfigError(f"{where}: role must be edge or workstation, not {role!r}")
    for key in ("python", "prefix"):
        if key in pairs and not pairs[key].startswith("/"):
            raise ConfigError(f"{where}: {key} must be an absolute path on {name}, not {pairs[key]!r}")
    return Host(name, slots, cast("Role | None", role), pairs.get("python"), pairs.get("prefix"))


def _pairs(text: str, where: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error} behind '#:'") from error
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(f"{where}: {word!r} behind '#:' is not key=value; for prose use a plain '#'")
        if key in pairs:
            raise ConfigError(f"{where}: {key} is given twice")
        pairs[key] = value
    return pairs


def _known(pairs: dict[str, str], keys: tuple[str, ...], where: str) -> None:
    for key in pairs:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r} behind '#:'; here it can be {', '.join(keys)}")


def _network(text: str, where: str) -> str:
    try:
        return ",".join(str(ipaddress.ip_network(part.strip())) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{where}: network must be like 192.168.55.0/24 ({error})") from error


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
