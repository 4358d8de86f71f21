import subprocess

import pytest

from splitrail.launch.hostfile import HOSTFILES, Host, Hosts
from splitrail.launch.mpirun import detect_mpi
from splitrail.pipeline.errors import ConfigError


def parse(text):
    return Hosts.parse(text, "my.txt")


def test_our_keys_are_read_and_prose_is_not():
    hosts = parse(
        "# role=workstation is prose here\n"
        "\n"
        "#: network=192.168.55.0/24\n"
        "tx2 slots=1 #: role=edge python='/opt/my python/bin/python'\n"
        "far-host.lan slots=2 max_slots=4 #: role=workstation prefix=/usr/lib/openmpi\n"
        "plain  # slots of this one: one\n"
    )
    assert hosts.network == "192.168.55.0/24"
    assert list(hosts) == [
        Host("tx2", 1, "edge", "/opt/my python/bin/python"),
        Host("far-host.lan", 2, "workstation", None, "/usr/lib/openmpi"),
        Host("plain"),
    ]
    assert hosts.with_role("edge") == (hosts.find("tx2"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "my.txt names no host"),
        ("# only prose\n", "my.txt names no host"),
        ("a\n192.168.1.2 slots=1", "my.txt line 2: 192.168.1.2 is an address"),
        ("a\nfe80::1", "my.txt line 2: fe80::1 is an address"),
        ("user@a", "my.txt line 1: 'user@a' is not a host name"),
        ("a\na", "my.txt line 2: a is there twice"),
        ("a slots=0", "my.txt line 1: slots must be a whole number from 1, not '0'"),
        ("a slots=two", "not 'two'"),
        ("a slots=²", "not '²'"),
        ("a role=edge", "my.txt line 1: unknown key 'role'; before '#:'"),
        ("a #: rôle=edge", "unknown key 'rôle' behind '#:'; here it can be role, python, prefix"),
        ("a #: network=10.0.0.0/8", "unknown key 'network' behind '#:'"),
        ("#: role=edge\na", "unknown key 'role' behind '#:'; here it can be network"),
        ("a #: role=server", "role must be edge or workstation, not 'server'"),
        ("a #: python=bin/python", "python must be an absolute path on a, not 'bin/python'"),
        ("a #: role", "'role' behind '#:' is not key=value"),
        ("a #: role=edge role=edge", "role is given twice"),
        ("a #: python='/x", "line 1: No closing quotation"),
        ("#: network=10.0.0.1/8\na", "my.txt line 1: network must be like 192.168.55.0/24"),
        ("#: network=10.0.0.0/8\n#: network=10.0.0.0/8\na", "my.txt line 2: the network is given twice"),
    ],
)
def test_a_line_that_does_not_fit_is_named(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_an_unknown_host_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"my\.txt has no host 'c'; it has a, b"):
        parse("a\nb").find("c")


def test_several_networks_are_joined_by_commas():
    assert parse("#: network=10.0.0.0/8,192.168.0.0/16\na").network == "10.0.0.0/8,192.168.0.0/16"


def test_a_file_that_is_missing_is_answered_with_the_shipped_ones(tmp_path):
    with pytest.raises(ConfigError, match="localhost, two-jetsons, tx2-workstation"):
        Hosts.load(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="it is not text"):
        Hosts.load(tmp_path / "binary.txt")


@pytest.mark.parametrize("name", ["localhost", "tx2-workstation", "two-jetsons"])
def test_every_shipped_file_fits(name):
    assert Hosts.load(name) == Hosts.load(HOSTFILES / f"{name}.txt")


def test_the_shipped_pairs_have_both_roles_and_a_network():
    for name in ("tx2-workstation", "two-jetsons"):
        hosts = Hosts.load(name)
        assert hosts.network
        assert len(hosts.with_role("edge")) == len(hosts.with_role("workstation")) == 1


@pytest.mark.mpi
def test_plain_mpirun_reads_the_same_file(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_text("#: network=127.0.0.0/8\n# prose\nlocalhost slots=2  #: role=edge python=/opt/x prefix=/opt/y\n")
    assert Hosts.load(path).find("localhost").slots == 2
    for hostfile in (path, HOSTFILES / "localhost.txt"):
        command = [detect_mpi().mpirun, "--allow-run-as-root", "--bind-to", "none", "--hostfile", hostfile]
        result = subprocess.run(
            [*command, "-np", "2", "echo", "here"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (result.returncode, result.stdout) == (0, "here\nhere\n"), result.stderr
