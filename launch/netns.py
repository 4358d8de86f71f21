"""Two hosts on one machine: two network namespaces with a link of a chosen rate and delay between them.

    with TwoHosts(link_rate="100mbit", link_delay_ms=10, hide=[out]) as two:
        command = build_command(mpi, ranks, network=two.network, agent=two.agent)
        subprocess.run(two.near(command))

            edge (near host)                            workstation (far host)
            own network, host name                      own network, host name, processes, /tmp, /dev/shm, home
            this machine's files                        this machine's files but for what is hidden
            10.77.0.1  link0 ======= veth pair, or two TUN devices and a relay ======= link0  10.77.0.2

Each host is one waiting process that holds the namespaces, which have no names: they end with the last process in them. The
waiting process ends when its standard input does, so however the owner ends, SIGKILL included, nothing stays behind. All
processes of the far host are killed with its first one.

The delay is one way, in both directions: 10 ms make a round trip of 20 ms. It is netem's where the kernel has it, else
that of `relay.py`, which takes up to half a core. The rate is a token bucket's, and the relay's where the link is or becomes so
slow that the bucket would let whole messages through at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil

from ..pipeline.errors import ConfigError, HostError
from . import relay
from .far_mounts import FAR_HOME, FAR_PREFIX, far_mounts, kept_folders
from .hostfile import Host, Hosts
from .shaping import BUCKET_HIDES_BELOW, parse_rate, shape_commands

NETWORK = "10.77.0.0/24"
_EDGE, _WORKSTATION, _DEVICE = "edge", "workstation", "link0"
_ADDRESSES = {_EDGE: "10.77.0.1", _WORKSTATION: "10.77.0.2"}
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "mount": "mount"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 3.0
DelayBy = Literal["none", "netem", "relay"]
RateBy = Literal["bucket", "relay"]


class TwoHosts:
    """The two hosts, from `with` to its end. `edge` is where mpirun runs, `workstation` is reached through `agent`."""

    network = NETWORK
    """CIDR of the link."""

    def __init__(
        self,
        link_rate: str | None = None,
        link_delay_ms: float = 0.0,
        hide: Sequence[str | os.PathLike[str]] = (),
        keep: Sequence[str | os.PathLike[str]] = (),
        slowest_rate: str | None = None,
    ) -> None:
        """`link_rate` as `tc` spells it (None: unlimited), `link_delay_ms` one way. The folders in `hide` (made if they
        are missing) look empty on the far host, as do /tmp and the home of whoever logs in there; what this interpreter
        and the package need stays visible, and so do the folders in `keep` (an Open MPI elsewhere). `slowest_rate` is the
        slowest that `set_rate` will be told; None: none is slower than `link_rate`.

        Raises ConfigError for a rate or delay that is none.
        """
        self.link_rate = parse_rate(link_rate) if link_rate is not None else None
        """bit/s, None for unlimited."""
        if not 0 <= link_delay_ms <= 10_000:
            raise ConfigError(f"link delay {link_delay_ms} ms is not between 0 and 10000 ms")
        self.link_delay_ms = link_delay_ms
        self.delay_by: DelayBy = "none"
        rates = [parse_rate(rate) for rate in (link_rate, slowest_rate) if rate is not None]
        self.rate_by: RateBy = "relay" if min(rates, default=BUCKET_HIDES_BELOW) < BUCKET_HIDES_BELOW else "bucket"
        """How a rate is kept, if there is one."""
        self._hide = [Path(path).resolve() for path in hide]
        self._keep = kept_folders() | {Path(path).resolve() for path in keep}
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._relay: subprocess.Popen[str] | None = None
        self._pids: dict[str, int] = {}
        self._networks: list[int] = []
        """File descriptors of the network namespaces: their numbers are given to others once they are gone."""
        self._folder: Path | None = None

    def __enter__(self) -> TwoHosts:
        """Make the hosts. Raises HostError where rights, tools or the kernel do not allow it."""
        _check_rights()
        # mpirun cuts the agent's path at spaces, so TMPDIR is not asked.
        self._folder = Path(tempfile.mkdtemp(prefix="splitrail-netns-", dir="/tmp")).resolve()
        try:
            (self._folder / "hosts").write_text(
                "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in _ADDRESSES.items())
            )
            for path in self._hide:
                _make_folder(path)
            self._start_host(_EDGE, ["--net", "--uts", "--mount"], "", at_end=f"rm -rf {self._folder}\n")
            private = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            mounts = far_mounts(self._hide, self._keep, self._folder)
            # The daemon there wants to see the agent as well, though it has nobody to call.
            mounts += f"cp /bin/sh {self.agent}\n"
            self._start_host(_WORKSTATION, private, mounts)
            self._write_agent()
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def hosts(self) -> Hosts:
        """Both hosts, as a hostfile would name them."""
        edge, workstation = Host(_EDGE, 64, "edge"), Host(_WORKSTATION, 64, "workstation")
        return Hosts((edge, workstation), NETWORK, "the two hosts on this machine")

    @property
    def agent(self) -> Path:
        """What takes the place of ssh: `agent [OPTION...] HOST COMMAND...`, for both hosts."""
        assert self._folder is not None, "only inside the with block"
        return self._folder / "agent"

    def near(self, command: Sequence[str], cwd: str | os.PathLike[str] | None = None) -> list[str]:
        """`command` as one that runs on the edge host; it keeps its process id, so signals reach it."""
        folder = str(Path(cwd) if cwd is not None else Path.cwd())
        return [*self._enter(_EDGE), "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder, *command]

    def set_rate(self, link_rate: str | None) -> None:
        """Change the rate of the link while it is in use."""
        self.link_rate = parse_rate(link_rate) if link_rate is not None else None
        if self.rate_by == "relay":
            assert self._relay is not None
            assert self._relay.stdin is not None
            self._relay.stdin.write(f"{self.link_rate or 0}\n")
            self._relay.stdin.flush()
        else:
            self._shape()

    def set_link(self, up: bool) -> None:
        """Pull the cable (False) or put it back (True)."""
        for host in self._pids:
            self._on(host, ["ip", "link", "set", _DEVICE, "up" if up else "down"])

    def tx_bytes(self) -> dict[str, int]:
        """Bytes that each host's end of the link has sent so far, headers included, by host name."""
        counts = {}
        for host, pid in self._pids.items():
            for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
                device, _, numbers = line.partition(":")
                if device.strip() == _DEVICE:
                    counts[host] = int(numbers.split()[8])
        return counts

    def facts(self) -> dict[str, str | int | float | None]:
        """What a record of a measurement must say about the link."""
        congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
        return {
            "link_rate_bit_per_s": self.link_rate,
            "link_delay_ms": self.link_delay_ms,
            "delay_by": self.delay_by,
            "rate_by": self.rate_by if self.link_rate is not None else "none",
            "congestion_control": congestion.read_text().strip() if congestion.exists() else None,
        }

    def close(self) -> None:
        """Remove both hosts and everything that runs there. Harmless when called twice."""
        for process in (self._relay, *reversed(self._holders.values())):
            if process is not None:
                _end(process)
        _kill_all_in(self._networks)
        for network in self._networks:
            os.close(network)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._relay, self._folder = None, None
        self._holders, self._pids, self._networks = {}, {}, []

    def _start_host(self, host: str, namespaces: Sequence[str], mounts: str, at_end: str = "") -> None:
        """Start the process that holds a host's namespaces."""
        assert self._folder is not None
        script = (
            "set -e\n"
            f"echo {host} >/proc/sys/kernel/hostname\n"
            f"mount --bind {self._folder}/hosts /etc/hosts\n"
            f"{mounts}"
            "if [ -e /proc/sys/net/ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; fi\n"
            "ip link set lo up\n"
            "echo ready\n"
            "read -r _ || :\n"
            f"{at_end}"
        )
        command = ["unshare", *namespaces, "sh", "-c", script]
        holder = self._holders[host] = _start(
            command, "network and mount namespaces; in a container they need --privileged"
        )
        children = psutil.Process(holder.pid).children()
        self._pids[host] = children[0].pid if "--fork" in namespaces else holder.pid
        self._networks.append(os.open(f"/proc/{self._pids[host]}/ns/net", os.O_RDONLY))

    def _write_agent(self) -> None:
        """The script that mpirun calls instead of ssh. As behind ssh, nothing of the caller's environment passes."""
        env = [f"PATH={_PATH}", "LANG=C.UTF-8"]
        if site.ENABLE_USER_SITE:
            env.append(f"PYTHONUSERBASE={site.getuserbase()}")
        cases = ""
        for host, home in ((_EDGE, str(Path.home())), (_WORKSTATION, FAR_HOME)):
            words = [*self._enter(host), "env", "-i", *env, f"HOME={home}", "sh", "-c"]
            # Only the far host has Open MPI's folder under a name without spaces too.
            spelled = _without_spaces(sys.prefix) if host == _WORKSTATION else ""
            cases += f"{host}) {spelled}set -- {shlex.join(words)} ;;\n"
        self.agent.write_text(
            "#!/bin/sh\n"
            "# Takes the place of ssh: agent [OPTION...] HOST COMMAND...\n"
            "while :; do\n"
            "case $1 in -[BbcDEeFIiJLlmOopQRSWw]) shift 2 ;; -*) shift ;; *) break ;; esac\n"
            "done\n"
            'host=$1; shift; command="$*"\n'
            "case $host in\n"
            f"{cases}"
            '*) echo "no host $host" >&2; exit 255 ;;\n'
            "esac\n"
            'exec "$@" "$command"\n'
        )
        self.agent.chmod(0o755)

    def _connect(self) -> None:
        """Make the link between the hosts and bring it up."""
        edge, workstation = self._pids[_EDGE], self._pids[_WORKSTATION]
        if self.link_delay_ms > 0:
            self.delay_by = "netem" if self.rate_by != "relay" and self._has_netem() else "relay"
        if "relay" in (self.delay_by, self.rate_by):
            rate = self.link_rate or 0 if self.rate_by == "relay" else 0
            arguments = [str(edge), str(workstation), _DEVICE, str(self.link_delay_ms), str(rate)]
            what = "TUN devices, which a slow link needs, and a delay where the kernel has no netem"
            self._relay = _start([sys.executable, "-I", relay.__file__, *arguments], what)
        else:
            veth = ["type", "veth", "peer", "name", _DEVICE, "netns", str(workstation)]
            _run(["ip", "link", "add", _DEVICE, "netns", str(edge), *veth], "veth pairs")
        for host, address in _ADDRESSES.items():
            self._on(host, ["ip", "address", "add", f"{address}/24", "dev", _DEVICE])
            self._on(host, ["ip", "link", "set", _DEVICE, "up", "txqueuelen", "2000"])
        self._shape()

    def _shape(self) -> None:
        delay_ms = self.link_delay_ms if self.delay_by == "netem" else 0.0
        for host in self._pids:
            for command in shape_commands(_DEVICE, None if self.rate_by == "relay" else self.link_rate, delay_ms):
                self._on(host, command)

    def _has_netem(self) -> bool:
        try:
            self._on(_EDGE, ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
        except HostError:
            return False
        self._on(_EDGE, ["tc", "qdisc", "del", "dev", "lo", "root"])
        return True

    def _enter(self, host: str) -> list[str]:
        """The words before a command that run it on a host."""
        namespaces = ["--net", "--uts", "--mount", *(["--pid"] if host == _WORKSTATION else [])]
        return ["nsenter", "--target", str(self._pids[host]), *namespaces, "--"]

    def _on(self, host: str, command: list[str]) -> None:
        _run(["nsenter", "--target", str(self._pids[host]), "--net", "--", *command], " ".join(command))


def _check_rights() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise HostError(
            "two hosts on one machine are network namespaces, which need Linux and root; "
            "run with sudo, or on two real hosts with --hostfile"
        )
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise HostError(f"two hosts on one machine need the command {tool!r}; install the package {package}")


def _start(command: list[str], what: str) -> subprocess.Popen[str]:
    """Start a process that ends with its standard input, and wait for its `ready`.

    In a session of its own: an interrupt from the terminal ends the run first and these after it.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT_S)
    if readable and process.stdout.readline() == "ready\n":
        return process
    raise HostError(f"this kernel refuses {what} ({_end(process)}); use two real hosts with --hostfile")


def _end(process: subprocess.Popen[str]) -> str:
    """Let it end with its standard input; returns the last thing it complained of."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with process.stdout, process.stderr as complaints:
        return (complaints.read().strip().splitlines() or ["no answer"])[-1]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be a folder ({error.strerror}); give this run another one") from error


def _run(command: list[str], what: str) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"'{what}' does not come back; use two real hosts with --hostfile") from error
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise HostError(f"this kernel refuses {what} ({reason}); use two real hosts with --hostfile")


def _kill_all_in(networks: Sequence[int]) -> None:
    """Kill what is left in these network namespaces, given as open files, and wait until it is gone."""
    numbers = {os.fstat(network).st_ino for network in networks}
    deadline = time.monotonic() + _END_TIMEOUT_S
    while numbers and time.monotonic() < deadline:
        left = [pid for pid in psutil.pids() if _network_of(pid) in numbers]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _network_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _without_spaces(prefix: str) -> str:
    """Shell lines that spell Open MPI's folder without spaces in `$command`: mpirun does not quote it."""
    if not re.search(r"\s", prefix):
        return ""
    pattern = re.sub(r"([\[\]\\.*^$|])", r"\\\1", prefix)
    return f'command=$(printf %s "$command" | sed {shlex.quote(f"s|{pattern}|{FAR_PREFIX}|g")})\n'
