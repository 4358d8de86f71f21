"""What goes wrong ends in one clear sentence, the right exit code, valid files, and no process left."""

import json
import os
import shutil
import signal
import subprocess
import time

import cv2
import psutil
import pytest
from run_support import NUM_FRAMES, all_gone, command, descendants, ranks_of, splitrail, wait_for_results

from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi
from splitrail.launch.run import _supervise as supervise

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

ENDLESS = ("--loop", "--rate", "100")


def finish(process, timeout=20):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for_fates(journal, num, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not journal.exists() or journal.read_bytes().count(b'"fate"') < num:
        assert time.monotonic() < end, f"{journal} has fewer than {num} fates after {timeout_s} s"
        time.sleep(0.05)


def own_lines(err):
    return [line for line in err.splitlines() if line.startswith("splitrail:")]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_run_and_what_was_written_is_valid(start_run, victim):
    process, folder = start_run(*ENDLESS, placement="backbone", policy="wait")
    wait_for_results(folder, 30)
    wait_for_fates(folder / "journal-rank0.jsonl", 30)  # its last second may be lost
    family = descendants(process.pid)
    begin = time.monotonic()
    ranks_of(process.pid)[victim].send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert time.monotonic() - begin < 5
    assert code == 1
    assert len(own_lines(err)) == 1, err
    assert f"rank {victim}" in own_lines(err)[0]
    assert "signal 9" in own_lines(err)[0]
    assert all_gone(family)
    frames = [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]
    assert len(frames) >= 30
    assert json.loads((folder / "summary.json").read_text())["counts"]["done"] >= 30
    video = cv2.VideoCapture(str(next(folder.glob("detections.m*"))))
    assert video.read()[0]


def test_a_rank_that_fails_is_named_once_and_all_end_within_two_seconds(start_run, bundle, tmp_path):
    # A graph that is gone when the first frame comes would be caught at the start, so a full disk has to do: /dev/full.
    process, folder = start_run(*ENDLESS, placement="backbone", policy="wait")
    wait_for_results(folder, 10)
    family = descendants(process.pid)
    begin = time.monotonic()
    ranks_of(process.pid)[1].send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert time.monotonic() - begin < 3
    assert code != 0
    assert len(own_lines(err)) <= 1, err
    assert all_gone(family)
    assert json.loads((folder / "summary.json").read_text())["counts"]["done"] >= 10


def test_ctrl_c_drains_and_ends_with_130(start_run):
    process, folder = start_run(*ENDLESS, placement="backbone", policy="wait")
    wait_for_results(folder, 20)
    family = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert all_gone(family)
    summary = json.loads((folder / "summary.json").read_text())
    counts = summary["counts"]
    assert counts["captured"] == counts["done"] >= 20
    assert counts["unfinished"] == 0
    video = cv2.VideoCapture(str(folder / "detections.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == counts["done"]


def test_what_a_far_sink_wrote_is_named_and_a_run_that_never_streamed_leaves_nothing(
    start_run, splitrail_run, monkeypatch, tmp_path
):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process, folder = start_run(*ENDLESS, "--sink-rank", "1", placement="backbone", policy="wait")
    journal = folder / "journal-rank1.jsonl"
    wait_for_fates(journal, 5)
    ranks_of(process.pid)[1].send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 1
    left = next(temporary.glob("splitrail-rank1-*"))
    assert f"what rank 1 wrote is in {left}" in own_lines(err)[0]
    assert (left / "detections.jsonl").read_text().count("\n") >= 5
    shutil.rmtree(left)
    outcome = splitrail_run("--sink-rank", "1", placement="backbone", source="/nowhere/clip.mp4")
    assert outcome.code == 2
    assert not list(temporary.glob("splitrail-rank*"))


def test_what_a_library_prints_does_not_hide_the_error(tmp_path, capfd):
    """The program says something on its standard error and dies without a word of ours."""
    program = ("sh", "-c", "echo 'some warning' >&2; kill -9 $$")
    code = supervise(
        build_command(detect_mpi(), [RankSpec(None, program)]), None, tmp_path, as_json=False, show_table=False
    )
    err = capfd.readouterr().err
    assert code == 1
    assert "some warning" in err
    assert len(own_lines(err)) == 1
    assert "signal 9" in own_lines(err)[0]


def test_killing_splitrail_itself_leaves_no_process(start_run):
    process, folder = start_run(*ENDLESS, placement="backbone", policy="wait")
    wait_for_results(folder, 5)
    family = descendants(process.pid)
    process.kill()
    process.wait()
    assert all_gone(family, timeout_s=10)


@pytest.mark.parametrize(
    ("stopped", "policy", "texts"),
    [
        (1, "wait", ("rank 0 on", "lane backbone waits", "rank 1 does not answer")),
        # The source goes on capturing and dropping, and yet nothing moves.
        (1, "drop-oldest", ("rank 0 on", "lane backbone waits", "rank 1 does not answer")),
        # Rank 0, which speaks for all, cannot.
        (0, "wait", ("rank 1 on", "lane transformer waits")),
    ],
)
def test_nothing_moving_ends_with_who_waits_for_what(start_run, stopped, policy, texts):
    process, folder = start_run(*ENDLESS, placement="backbone", policy=policy, stall_timeout=2)
    wait_for_results(folder, 5)
    family = descendants(process.pid)
    stopped = ranks_of(process.pid)[stopped]
    stopped.send_signal(signal.SIGSTOP)
    try:
        code, _, err = finish(process, timeout=30)
    finally:
        for left in family:
            try:
                left.send_signal(signal.SIGCONT)
            except psutil.NoSuchProcess:
                continue
    assert code == 1
    line = own_lines(err)[0]
    assert len(own_lines(err)) == 1
    assert "nothing has moved for 2 s" in line
    for text in texts:
        assert text in line
    assert all_gone(family, timeout_s=10)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bundle": "/nowhere/bundle"}, "no bundle at /nowhere/bundle"),
        ({"source": "/nowhere/clip.mp4"}, "'/nowhere/clip.mp4' does not exist"),
        ({"placement": "sideways"}, "no placement 'sideways'"),
        ({"engine": "abacus"}, "there is no engine [abacus]"),
        ({"wire": "fp64"}, "'wire'"),
        ({"score_threshold": "1.5"}, "'score_threshold'"),
        ({"out": "/proc/nowhere"}, "/proc/nowhere cannot be written"),
        ({"source_rank": "5"}, "source_rank 5 does not exist"),
        ({"hostfile": "/nowhere/hosts.txt"}, "/nowhere/hosts.txt"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(splitrail_run, change, text):
    outcome = splitrail_run(**({"placement": "backbone"} | change))
    assert outcome.code == 2, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert text in lines[0]


def test_a_damaged_bundle_is_named(splitrail_run, bundle, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in bundle.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "transformer.onnx").write_bytes(b"x" + (bundle / "transformer.onnx").read_bytes()[1:])
    outcome = splitrail_run(placement="backbone", bundle=damaged)
    assert outcome.code == 2
    assert "transformer.onnx is damaged" in outcome.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1\n", "unknown key 'colour'"),
        ("[source]\nuri = 'x'\nspeed = 2\n", "unknown key 'source.speed'"),
        ("device = 'cuda'\n", "engine auto is decided without a device, and the device is cuda; name the engine"),
        ("threads = 'many'\n", "'threads'"),
        ("source = 'clip.mp4'\n", "'source'"),
        ("threads = = 1\n", "does not parse"),
    ],
)
def test_an_unknown_key_in_the_toml_is_named(tmp_path, text, named):
    config = tmp_path / "run.toml"
    config.write_text(text)
    result = splitrail("run", "--config", config, "--source", "x", "--stride", "2", "--out", tmp_path / "o")
    assert result.code == 2
    assert named in result.err
    assert str(config) in result.err


def test_a_wrong_number_of_ranks_by_hand_is_refused(bundle, clip, tmp_path):
    config = tmp_path / "run.json"
    config.write_text(
        json.dumps(
            {"source": {"uri": str(clip)}, "out": str(tmp_path / "o"), "bundle": str(bundle), "placement": "backbone"}
        )
    )
    ranks = [RankSpec(None, tuple(command("rank", "--config", config)))] * 3
    result = subprocess.run(build_command(detect_mpi(), ranks), capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if "splitrail:" in line] == [
        "splitrail: placement backbone needs 2 ranks and mpirun started 3; start it with -n 2"
    ]


def test_a_disk_that_is_full_ends_the_run_with_its_name(start_run, tmp_path):
    process, folder = start_run(*ENDLESS, "--csv", placement="backbone", policy="wait")
    wait_for_results(folder, 10)
    family = descendants(process.pid)
    rank0 = ranks_of(process.pid)[0]
    # Files of this process may not grow any more: what a full disk does, without filling one.
    rank0.rlimit(psutil.RLIMIT_FSIZE, ((folder / "detections.jsonl").stat().st_size, psutil.RLIM_INFINITY))
    code, _, err = finish(process, timeout=40)
    assert code == 2, err
    assert "cannot be written" in err or "cannot write" in err
    assert all_gone(family)


def test_the_number_of_frames_is_the_clips(splitrail_run):
    assert splitrail_run(placement="full").summary["counts"]["captured"] == NUM_FRAMES


def hostfile_of(tmp_path, text):
    path = tmp_path / "hosts.txt"
    path.write_text("#: network=127.0.0.0/8\n" + text)
    return path


def test_a_host_that_does_not_answer_is_named_before_mpirun_starts(splitrail_run, tmp_path):
    hosts = hostfile_of(tmp_path, "localhost slots=1\nnowhere.invalid slots=1\n")
    outcome = splitrail_run(placement="backbone", hostfile=hosts)
    assert outcome.code == 2, outcome.err
    assert "nowhere.invalid" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert outcome.seconds < 30
    assert not (outcome.folder / "journal-rank0.jsonl").exists()


def test_a_far_host_with_another_version_is_refused(splitrail_run, tmp_path, monkeypatch):
    """ssh is a script here: it runs the far command on this machine, as a splitrail of another version."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do case $1 in -o|-l|-p) shift 2;; *) shift;; esac; done\nshift\n'
        'sh -c "$*" | sed \'s/"splitrail": "[^"]*"/"splitrail": "9.9.9"/\'\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
    hosts = hostfile_of(tmp_path, "localhost slots=1\nfar slots=1\n")
    outcome = splitrail_run(placement="backbone", hostfile=hosts)
    assert outcome.code == 2, outcome.err
    assert "9.9.9" in outcome.err
    assert "far" in outcome.err
    assert "install the same version" in outcome.err


def test_too_few_slots_are_named(splitrail_run, tmp_path):
    hosts = hostfile_of(tmp_path, "localhost slots=1\n")
    outcome = splitrail_run("--dry-run", placement="backbone", hostfile=hosts)
    assert outcome.code == 0  # all ranks are here: slots are for other hosts
    hosts = hostfile_of(tmp_path, "far slots=1\n")
    outcome = splitrail_run("--dry-run", placement="backbone", hostfile=hosts)
    assert outcome.code == 2
    assert "needs 2 ranks" in outcome.err
