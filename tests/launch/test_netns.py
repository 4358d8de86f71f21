import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from splitrail.launch.doctor import examine
from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi
from splitrail.launch.netns import TwoHosts
from splitrail.launch.shaping import parse_rate, shape_commands
from splitrail.pipeline.errors import ConfigError, HostError

LINK_PROGRAM = str(Path(__file__).with_name("link_program.py"))
SHORT_MESSAGE_PROGRAM = str(Path(__file__).with_name("short_message_program.py"))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.mark.parametrize(
    ("text", "rate"), [("100mbit", 100_000_000), ("1.5Gbit", 1_500_000_000), (" 500kbit", 500_000), ("9600bit", 9600)]
)
def test_a_rate_is_read_as_tc_spells_it(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "100", "100 mbit", "-1mbit", "0mbit", "100mbps", "999bit", "1e3mbit"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ConfigError, match="write it like 100mbit"):
        TwoHosts(text)


@pytest.mark.parametrize("delay_ms", [-1.0, float("nan"), float("inf")])
def test_what_is_no_delay_is_refused(delay_ms):
    with pytest.raises(ConfigError, match="link delay"):
        TwoHosts(link_delay_ms=delay_ms)


def test_rate_and_delay_become_queues():
    def lines(rate, delay_ms):
        return [shlex.join(command) for command in shape_commands("link0", rate, delay_ms)]

    tbf = "tbf rate 100000000bit burst 31250b limit 656250b"
    netem = "tc qdisc replace dev link0 root handle 1: netem delay 2500us limit 100000"
    assert lines(100_000_000, 0) == [f"tc qdisc replace dev link0 root {tbf}"]
    assert lines(100_000_000, 2.5) == [netem, f"tc qdisc replace dev link0 parent 1:1 handle 10: {tbf}"]
    assert lines(None, 2.5) == [netem, "tc qdisc replace dev link0 parent 1:1 handle 10: pfifo limit 1000"]
    assert lines(None, 0) == ["tc qdisc replace dev link0 root pfifo limit 1000"]


def test_it_is_refused_where_rights_or_tools_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="need Linux and root; run with sudo"), TwoHosts():
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="need the command 'ip'; install the package iproute2"), TwoHosts():
        pass


def measure(two, num_bytes, num_messages, *looked_for):
    """What `link_program.py` says of the link, and by how much the counters of the interfaces have grown."""
    program = (sys.executable, "-m", "mpi4py", LINK_PROGRAM, str(num_bytes), str(num_messages), *map(str, looked_for))
    ranks = [RankSpec(host.name, program) for host in two.hosts]
    command = two.near(build_command(detect_mpi(), ranks, network=two.network, agent=two.agent))
    before = two.tx_bytes()
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL, check=False)
    assert result.returncode == 0, result.stderr
    grown = {host: count - before[host] for host, count in two.tx_bytes().items()}
    return json.loads(result.stdout), grown


class Networks:
    """The network namespaces of the hosts, held open: the number of one that is gone is given to the next."""

    def __init__(self, pids):
        self._files = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in pids]
        self.numbers = {os.fstat(file).st_ino for file in self._files}

    def has_processes(self, within_s=0.0):
        """Whether some process is in one of them, also `within_s` from now."""
        deadline = time.monotonic() + within_s
        while self.numbers & set(map(self._number, psutil.pids())):
            if time.monotonic() >= deadline:
                return True
            time.sleep(0.05)
        return False

    def close(self):
        for file in self._files:
            os.close(file)

    @staticmethod
    def _number(pid):
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino
        except OSError:
            return None


@needs_root
@pytest.mark.netns
class TestTwoHosts:
    @pytest.mark.mpi
    def test_ranks_are_on_two_hosts_and_every_byte_crosses_the_link(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ONLY_NEAR", "1")
        hidden, seen = tmp_path / "out" / "detections.jsonl", Path(sys.executable)
        hidden.parent.mkdir()
        hidden.touch()
        with TwoHosts("100mbit", hide=[tmp_path / "out"]) as two:
            found, grown = measure(two, 1_000_000, 12, hidden, seen)
            edge, workstation = found["ranks"]
        assert (edge["host"], workstation["host"]) == ("edge", "workstation")
        assert edge["sees"] == [str(hidden), str(seen)]
        assert workstation["sees"] == [str(seen)]
        assert "ONLY_NEAR" in edge["environment"]
        assert "ONLY_NEAR" not in workstation["environment"]
        assert grown["edge"] >= 12_000_000
        assert 0.85e8 <= found["rate_bit_per_s"] <= 1e8

    @pytest.mark.mpi
    def test_the_delay_is_that_of_both_ways(self):
        with TwoHosts("100mbit", link_delay_ms=10) as two:
            found, grown = measure(two, 100_000, 10)
            assert two.facts()["delay_by"] in ("netem", "relay")
        assert 20.0 <= found["round_trip_ms"] <= 30.0
        assert grown["edge"] >= 1_000_000

    def test_a_short_message_takes_its_time_on_a_slow_link(self):
        """1921 bytes at 0.5 Mbit/s are 31 ms, a little more with headers; a bucket of two packets would pass them at once."""
        program = [sys.executable, SHORT_MESSAGE_PROGRAM]
        took = []
        with TwoHosts("100mbit", slowest_rate="500kbit") as two:
            assert two.facts()["rate_by"] == "relay"
            for rate in ("500kbit", "100mbit"):
                two.set_rate(rate)
                far = [two.agent, "workstation", shlex.join([*program, "far", "1921"])]
                with subprocess.Popen(far, stdout=subprocess.PIPE, text=True) as answering:
                    assert answering.stdout.readline() == "ready\n"
                    near = two.near([*program, "near", "1921"])
                    said = subprocess.run(near, capture_output=True, text=True, timeout=30, check=True).stdout
                assert answering.returncode == 0
                took.append(statistics.median(map(float, said.split())))
        assert 31 < took[0] < 42
        assert took[1] < 8
        with TwoHosts("100mbit") as two:
            assert two.facts()["rate_by"] == "bucket"

    def test_the_rate_can_change_and_the_cable_can_be_pulled(self):
        with TwoHosts("10mbit") as two:
            rates = [examine(two.hosts, two.agent).links[0].rate_bit_per_s]
            two.set_rate("40mbit")
            rates.append(examine(two.hosts, two.agent).links[0].rate_bit_per_s)
            knock = "import socket; socket.create_connection(('workstation', 9), 0.5)"
            errors = []
            for up in (True, False, True):
                two.set_link(up)
                result = subprocess.run(
                    two.near([sys.executable, "-c", knock]), capture_output=True, text=True, timeout=30, check=False
                )
                errors.append(result.stderr.splitlines()[-1].partition(":")[0])
        assert 0.85e7 <= rates[0] <= 1.05e7
        assert 3.4e7 <= rates[1] <= 4.2e7
        # A host that is there refuses the port; one whose cable is out does not answer at all.
        assert errors[0] == errors[2] == "ConnectionRefusedError"
        assert errors[1] in ("TimeoutError", "OSError")

    def test_near_commands_run_where_they_are_told_and_get_signals(self, tmp_path):
        with TwoHosts() as two:
            command = two.near(["sh", "-c", "echo $$; pwd; uname -n; exec sleep 60"], cwd=tmp_path)
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            lines = [process.stdout.readline().strip() for _ in range(3)]
            assert lines == [str(process.pid), str(tmp_path), "edge"]
            process.send_signal(signal.SIGUSR1)
            assert process.wait(5) == -signal.SIGUSR1
            process.stdout.close()

    def test_the_agent_takes_options_like_ssh_and_knows_its_hosts(self):
        with TwoHosts() as two:
            said = [
                subprocess.run([two.agent, *words], capture_output=True, text=True, timeout=30, check=False)
                for words in (
                    ["-x", "-o", "BatchMode=yes", "workstation", "uname -n;", "echo $HOME"],
                    ["edge", "uname -n"],
                    ["nowhere", "uname -n"],
                )
            ]
        assert [result.stdout for result in said] == ["workstation\n/tmp/home\n", "edge\n", ""]
        assert (said[2].returncode, said[2].stderr) == (255, "no host nowhere\n")

    def test_a_folder_the_package_runs_from_cannot_be_hidden(self):
        with pytest.raises(HostError, match="cannot be hidden from the far host"), TwoHosts(hide=[sys.prefix]):
            pass

    def test_what_the_far_host_needs_stays_inside_a_hidden_folder(self, tmp_path):
        needed, inside = tmp_path / "clone" / ".venv", tmp_path / "clone" / ".venv" / "cache"
        inside.mkdir(parents=True)
        (tmp_path / "clone" / "video").touch()
        (needed / "lib").touch()
        (inside / "bundle").touch()
        with TwoHosts(hide=[tmp_path / "clone", inside, tmp_path / "new"], keep=[needed]) as two:
            look = ["find", str(tmp_path), "-mindepth", "1"]
            far = subprocess.run(
                [two.agent, "workstation", *look], capture_output=True, text=True, timeout=30, check=True
            )
            near = subprocess.run(two.near(look), capture_output=True, text=True, timeout=30, check=True)
        seen = [{str(Path(line).relative_to(tmp_path)) for line in run.stdout.splitlines()} for run in (far, near)]
        there = {"clone", "clone/.venv", "clone/.venv/lib", "clone/.venv/cache"}
        assert seen == [there, there | {"clone/video", "clone/.venv/cache/bundle", "new"}]

    def test_two_pairs_do_not_disturb_each_other(self):
        with TwoHosts() as one, TwoHosts() as other:
            numbers = [os.readlink(f"/proc/{pid}/ns/net") for two in (one, other) for pid in two._pids.values()]
            assert len(set(numbers)) == 4
            subprocess.run([one.agent, "workstation", "true"], check=True, timeout=30)
            subprocess.run([other.agent, "workstation", "true"], check=True, timeout=30)


@needs_root
@pytest.mark.netns
class TestNothingStays:
    @pytest.mark.parametrize("delay_ms", [0, 5])
    def test_after_an_error_inside(self, delay_ms):
        made, folders, strays = [], [], []

        def fail():
            with TwoHosts(link_delay_ms=delay_ms) as two:
                made.append(Networks(two._pids.values()))
                folders.append(two.agent.parent)
                for command in (
                    [two.agent, "workstation", "setsid sleep 300 & echo; sleep 300"],
                    two.near(["sh", "-c", "trap '' TERM; echo; sleep 300"]),
                ):
                    strays.append(subprocess.Popen(command, stdout=subprocess.PIPE))
                    strays[-1].stdout.readline()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert len(made[0].numbers) == len(strays) == 2
        for stray in strays:
            assert stray.wait(5) != 0
            stray.stdout.close()
        assert not made[0].has_processes()
        made[0].close()
        assert not folders[0].exists()

    def test_after_a_start_that_fails(self, monkeypatch):
        before = psutil.Process().children(recursive=True)
        monkeypatch.setattr("splitrail.launch.netns._DEVICE", "a name that is far too long")
        with pytest.raises(HostError, match="this kernel refuses"), TwoHosts():
            pass
        assert psutil.Process().children(recursive=True) == before

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
    def test_after_the_owner_was_ended_by_a_signal(self, tmp_path, how):
        owner = tmp_path / "owner.py"
        owner.write_text(
            "import json, os, subprocess, time\n"
            "from splitrail.launch.netns import TwoHosts\n"
            "with TwoHosts('100mbit', link_delay_ms=5) as two:\n"
            "    stray = subprocess.Popen([two.agent, 'workstation', 'echo; sleep 300'], stdout=subprocess.PIPE)\n"
            "    stray.stdout.readline()\n"
            "    print(json.dumps([list(two._pids.values()), str(two.agent.parent)]), flush=True)\n"
            "    time.sleep(300)\n"
        )
        process = subprocess.Popen(
            [sys.executable, str(owner)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        pids, folder = json.loads(process.stdout.readline())
        made = Networks(pids)
        assert made.has_processes()
        process.send_signal(how)
        assert process.wait(10) != 0
        process.stdout.close()
        assert not made.has_processes(within_s=5)
        made.close()
        assert not Path(folder).exists()
