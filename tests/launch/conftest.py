"""A tiny bundle and clip, made once, and `splitrail` as a command."""

from __future__ import annotations

import signal
import subprocess

import cv2
import numpy as np
import pytest
from run_support import NUM_FRAMES, Outcome, command, splitrail

from splitrail.stages.synthetic_bundle import make_synthetic_bundle


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell's background job ignores interrupts, and what it starts would, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Two graphs that need no torch; its detections depend on the picture."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_synthetic_bundle(folder, size=(64, 96), num_classes=3, num_queries=5)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What runs keep between them goes to a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A short video with something that moves."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (128, 96))
    noise = np.random.default_rng(0).integers(0, 60, (96, 128, 3), np.uint8)
    for frame in range(NUM_FRAMES):
        image = noise.copy()
        cv2.rectangle(image, (2 * frame, 10), (2 * frame + 30, 60), (40, 200, 5 * frame), -1)
        writer.write(image)
    writer.release()
    return path


@pytest.fixture(scope="session")
def run_into(bundle, clip):
    """`splitrail run` into a folder, to its end; the clip and the bundle unless others are given."""

    def run(folder, *arguments, **options):
        given = {"source": clip, "bundle": bundle, "out": folder, "engine": "onnxruntime", "score_threshold": 0.2}
        given |= options
        words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        done = splitrail("run", *words, *arguments)
        return Outcome(done.code, done.out, done.err, folder, done.seconds)

    return run


@pytest.fixture
def splitrail_run(run_into, tmp_path):
    """The same into a folder of the test, by its name."""

    def run(*arguments, out="out", **options):
        return run_into(tmp_path / out, *arguments, **options)

    return run


@pytest.fixture(scope="session")
def exact_run(run_into, tmp_path_factory):
    """Placement backbone with features as they are, whose detections others are compared with."""
    return run_into(tmp_path_factory.mktemp("exact"), "--no-video", placement="backbone", wire="fp32")


@pytest.fixture
def start_run(bundle, clip, tmp_path):
    """`splitrail run` in the background, in a process group of its own, endless unless told otherwise."""
    started = []

    def start(*arguments, out="out", source=None, **options):
        folder = tmp_path / out
        given = {"source": source or clip, "bundle": bundle, "out": folder, "engine": "onnxruntime"} | options
        words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        process = subprocess.Popen(
            command("run", *words, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process, folder

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
