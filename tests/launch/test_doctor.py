import json
import os
import shlex
import socket
import sys
import time
from dataclasses import replace

import psutil
import pytest

from splitrail import __version__
from splitrail.launch.doctor import doctor, examine
from splitrail.launch.host_probe import HostProbe
from splitrail.launch.hostfile import Host, Hosts
from splitrail.launch.probe import compare_versions, probe_hosts
from splitrail.launch.remote_shell import RemoteShell
from splitrail.pipeline.errors import HostError


@pytest.fixture(scope="module")
def mine():
    return HostProbe.measure()


@pytest.fixture
def shell(tmp_path, mine):
    """In the place of ssh: a host answers as its name says."""
    old = tmp_path / "old.json"
    old.write_text(replace(mine, splitrail="0.0.1").to_json())
    python = shlex.quote(sys.executable)
    script = tmp_path / "shell"
    script.write_text(
        "#!/bin/sh\n"
        "case $1 in\n"
        '  good*) shift; exec sh -c "$*" ;;\n'
        '  chatty) echo Welcome; shift; exec sh -c "$*" ;;\n'
        f'  old) case "$2" in *launch.probe) cat {shlex.quote(str(old))} ;; *) shift; exec sh -c "$*" ;; esac ;;\n'
        '  down) echo "ssh: connect to host down port 22: No route to host" >&2; exit 255 ;;\n'
        f"  hanging) echo $$ >{shlex.quote(str(tmp_path / 'pid'))}; sleep 300 ;;\n"
        "  bare) exec /no/such/python ;;\n"
        f"  empty) exec {python} -S -m splitrail.launch.probe ;;\n"
        "  strange) echo hello ;;\n"
        "esac\n"
    )
    script.chmod(0o755)
    return script


def hosts(*names):
    return Hosts(tuple(Host(name) for name in names), None, "test")


def test_a_probe_says_what_this_host_has(mine):
    assert mine.hostname == socket.gethostname()
    assert mine.splitrail == __version__
    assert mine.mpi_library == f"Open MPI {mine.mpi}"
    assert mine.num_cpus == len(os.sched_getaffinity(0))
    assert set(mine.sensors) == {"ina3221", "nvml", "rapl"}
    assert HostProbe.from_json(mine.to_json()) == mine


def test_a_probe_says_which_engines_run_a_bundle_and_what_the_others_lack(mine, monkeypatch, capsys):
    assert "fp32" in mine.graph_engines["onnxruntime"]
    assert "pip install 'splitrail[tensorrt]'" in mine.graph_engines["tensorrt"]
    doctor()
    assert "splitrail[tensorrt]" in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_a_jetson_tells_its_release_mode_clocks_and_memory(mine, monkeypatch, capsys):
    facts = {
        "release": "R36.4.3",
        "power_mode": "0: MAXN",
        "shared_memory": True,
        "max_clocks_mhz": {"cpu0": 2201.6, "gpu": 1300.5},
    }
    probe = replace(mine, jetson=facts, temperatures_c={"gpu-thermal": 48.5}, cuda_devices=["Orin (compute 8.7)"])
    monkeypatch.setattr("splitrail.launch.doctor.try_hosts", lambda hosts, agent: {"orin": probe})
    doctor(hosts("orin"))
    out = capsys.readouterr().out
    for text in (
        "R36.4.3",
        "0: MAXN",
        "gpu 1300 MHz",
        "gpu-thermal 48 C",
        "shared by CPU and GPU",
        "Orin (compute 8.7)",
    ):
        assert text in out


def test_an_open_mpi_elsewhere_that_is_missing_is_a_problem_not_an_error(tmp_path):
    probe = HostProbe.measure(prefix=str(tmp_path))
    assert probe.mpi is None
    assert str(tmp_path) in probe.mpi_problem


def test_every_host_is_asked_through_the_shell(shell, mine):
    probes = probe_hosts(hosts("good", "chatty"), shell)
    assert probes == {"good": mine, "chatty": mine}
    compare_versions(probes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "down",
            "host down does not answer (ssh: connect to host down port 22: No route to host); check that it is on",
        ),
        ("bare", f"host bare has no interpreter at {sys.executable}; name it with python= in the hostfile"),
        ("empty", "No module named"),
        ("strange", "host strange answers with something else than a probe"),
    ],
)
def test_a_host_that_does_not_fit_is_named_with_the_remedy(shell, name, message):
    with pytest.raises(HostError) as caught:
        probe_hosts(hosts("good", name), shell)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"host {name}")


def test_a_host_that_hangs_is_given_up_and_its_shell_ended(shell, tmp_path):
    begin = time.monotonic()
    with pytest.raises(HostError, match=r"host hanging has not answered within 0\.5 s"):
        probe_hosts(hosts("hanging"), shell, timeout_s=0.5)
    assert time.monotonic() - begin < 5
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_shell_that_is_missing_is_named():
    with pytest.raises(HostError, match="host good: /no/shell: No such file"):
        probe_hosts(hosts("good"), "/no/shell")


def test_here_needs_no_shell_and_elsewhere_is_never_asked_for_a_password():
    assert RemoteShell().command(Host("localhost"), "launch.probe") == [sys.executable, "-m", "splitrail.launch.probe"]
    assert RemoteShell().command(Host("far", python="/opt/my python"), "launch.probe", "--prefix", "/x") == [
        *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "far"),
        "'/opt/my python' -m splitrail.launch.probe --prefix /x",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mpi": "4.1.8", "mpi_library": "Open MPI 4.1.8"},
            "the hosts differ: a has Open MPI 5.0.11, b has Open MPI 4.1.8; install the same version on all of them",
        ),
        ({"splitrail": "0.0.1"}, f"the hosts differ: a has splitrail {__version__}, b has splitrail 0.0.1"),
        ({"mpi": None, "mpi_problem": "no mpirun there"}, "host b: no mpirun there"),
        ({"mpi_library": None}, "host b: mpi4py finds no MPI library"),
        ({"mpi_library": "MPICH 4.2.3"}, "host b: mpirun is Open MPI 5.0.11 but mpi4py loads MPICH 4.2.3"),
    ],
)
def test_hosts_that_cannot_run_together_are_named_with_their_versions(mine, changes, message):
    good = replace(mine, mpi="5.0.11", mpi_library="Open MPI 5.0.11")
    with pytest.raises(HostError) as caught:
        compare_versions({"a": good, "b": replace(good, **changes)})
    assert message in str(caught.value)


def test_round_trip_and_rate_are_measured_from_the_first_host(shell):
    result = examine(hosts("good", "good2"), shell)
    # Both are this machine, and good2 is no name of it: the server's address comes from the network.
    assert result.links[0].problem is not None
    (link,) = examine(Hosts((Host("good"), Host("good2")), "127.0.0.0/8"), shell).links
    assert (link.source, link.target, link.problem) == ("good", "good2", None)
    assert 0 < link.round_trip_ms < 100
    assert link.rate_bit_per_s > 1e6


def test_the_doctor_shows_what_it_found_and_ends_with_2_where_a_run_cannot_start(shell, capsys):
    assert doctor(hosts("good"), agent=shell) == 0
    assert "nothing speaks against a run" in capsys.readouterr().out
    assert doctor(hosts("good", "down"), agent=shell) == 2
    out = capsys.readouterr().out
    assert __version__ in out
    assert "host down does not answer" in out
    assert doctor(hosts("good", "old"), agent=shell) == 2
    assert "the hosts differ: good has splitrail" in capsys.readouterr().out


def test_a_script_can_read_it(shell, capsys, mine):
    assert doctor(hosts("good", "down"), as_json=True, agent=shell) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["is_healthy"] is False
    assert result["probes"]["good"]["hostname"] == mine.hostname
    assert list(result["problems"]) == ["down"]
    assert result["links"] == []


def test_without_hosts_it_looks_at_this_machine(capsys):
    assert doctor() == 0
    assert socket.gethostname() in capsys.readouterr().out
