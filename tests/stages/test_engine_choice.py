"""`engine = auto`: the fastest that agrees, decided once."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from splitrail.pipeline.errors import EngineError
from splitrail.stages import engine_choice
from splitrail.stages.agreement import Agreement
from splitrail.stages.bundle import Bundle
from splitrail.stages.engine_choice import EngineChoice, check_engine, choose_engine
from splitrail.stages.engine_trial import EngineTrial, run_trial, try_engine
from splitrail.stages.engines import registry
from splitrail.stages.engines.registry import EngineKind, register_engine
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

ODD_ENGINES = """
import os
import time

import numpy as np
from splitrail.stages.engines.onnxruntime import open_engine


class Odd:
    def __init__(self, name, engine):
        self.name, self.precision, self._engine = name, engine.precision, engine

    def run(self, inputs, outputs, targets=None):
        if self.name == "slow":
            time.sleep(0.05)
        if self.name == "crashing":
            os.kill(os.getpid(), 9)
        if self.name == "hanging":
            time.sleep(1000)
        results = self._engine.run(inputs, outputs, targets)
        if self.name == "wrong":
            results = {name: array + np.float32(0.5) for name, array in results.items()}
        return results

    def close(self):
        self._engine.close()


def opener(name):
    def open_odd(folder, bundle, stage_index, *, outputs, threads, precision, device):
        print("a library that talks")
        engine = open_engine(folder, bundle, stage_index, outputs=outputs, threads=threads, precision="fp32")
        return Odd(name, engine)

    return open_odd


slow, wrong, crashing, hanging = map(opener, ("slow", "wrong", "crashing", "hanging"))
"""
AGREES = Agreement(wire_error=0, logits_error=0, box_error=0, num_detections=2, num_matched=2, disagreement="")
DIFFERS = AGREES.model_copy(update={"num_matched": 1, "disagreement": "1 of 2 has no counterpart"})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("a bundle")
    return folder, make_synthetic_bundle(folder)


@pytest.fixture
def odd_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_engines.py").write_text(ODD_ENGINES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))
    for name in ("slow", "wrong", "crashing", "hanging"):
        register_engine(EngineKind(name, f"odd_engines:{name}", "numpy", "none", ("fp32",)))


def stub_trials(monkeypatch: pytest.MonkeyPatch, *trials: EngineTrial) -> list[str]:
    """Trials come from here instead of from processes; returns the engines tried so far."""
    tried: list[str] = []

    def trial(folder: Path, engine: str, precision: str, **_: object) -> EngineTrial:
        tried.append(engine)
        return next(t for t in trials if (t.engine, t.precision) == (engine, precision))

    monkeypatch.setattr(engine_choice, "try_engine", trial)
    return tried


def trial_of(
    engine: str, chain_ns: int, agreement: Agreement | None = AGREES, failure: str = "", precision: str = "fp32"
) -> EngineTrial:
    return EngineTrial(
        engine=engine, precision=precision, chain_ns=chain_ns, num_runs=9, agreement=agreement, failure=failure
    )


A, B, C = (("a", "fp32"), ("b", "fp32"), ("c", "fp32"))


def choose(
    bundle: tuple[Path, Bundle], cache: Path, candidates: Sequence[tuple[str, str]] = (A, B, C), threads: int = 1
) -> EngineChoice:
    return choose_engine(*bundle, threads=threads, cache=cache, candidates=candidates)


@pytest.mark.usefixtures("odd_engines")
def test_the_fastest_that_agrees_is_taken(bundle: tuple[Path, Bundle], tmp_path: Path) -> None:
    candidates = [(name, "fp32") for name in ("crashing", "slow", "wrong", "onnxruntime")]
    told: list[str] = []
    choice = choose_engine(
        *bundle,
        threads=1,
        cache=tmp_path / "cache",
        candidates=candidates,
        timing_s=0.1,
        on_trial=lambda engine, precision: told.append(f"{engine} {precision}"),
    )
    assert (choice.engine, choice.precision, choice.disagreement) == ("onnxruntime", "fp32", "")
    assert told == [" ".join(candidate) for candidate in candidates]
    crashing, slow, wrong, taken = choice.trials
    assert f"signal {signal.SIGKILL.value}" in crashing.failure
    assert slow.chain_ns is not None
    assert taken.chain_ns is not None
    assert slow.chain_ns >= 100_000_000 > taken.chain_ns
    assert "[features] is off by" in wrong.disagreement
    lines = str(choice).splitlines()
    assert lines[0].split()[:3] == ["engine", "precision", "ms/frame"]
    assert lines[4].endswith("taken")
    assert "refused: its trial ended on signal" in lines[1]
    assert "refused: [features]" in lines[3]


@pytest.mark.usefixtures("odd_engines")
def test_an_engine_that_was_asked_for_is_taken_and_its_disagreement_named(
    bundle: tuple[Path, Bundle], tmp_path: Path
) -> None:
    wrong = check_engine(*bundle, "wrong", "fp32", threads=1, cache=tmp_path, timing_s=0)
    assert wrong.engine == "wrong"
    assert "[features] is off by" in wrong.disagreement
    assert "taken, though [features]" in str(wrong)
    assert check_engine(*bundle, "onnxruntime", "fp32", threads=1, cache=tmp_path, timing_s=0).disagreement == ""
    with pytest.raises(EngineError, match=r"cannot run the bundle .*: onnxruntime runs graphs in fp32, not in bf16"):
        check_engine(*bundle, "onnxruntime", "bf16", threads=1, cache=tmp_path)
    with pytest.raises(EngineError, match=r"no engine \[nothing\]"):
        check_engine(*bundle, "nothing", "fp32", threads=1, cache=tmp_path)


@pytest.mark.usefixtures("odd_engines")
def test_a_trial_has_a_time_limit(bundle: tuple[Path, Bundle]) -> None:
    trial = try_engine(bundle[0], "hanging", "fp32", threads=1, timing_s=0, timeout_s=3)
    assert trial.failure == "it took longer than 3 s"


@pytest.mark.usefixtures("odd_engines")
def test_a_trial_ends_with_the_process_that_wanted_it(bundle: tuple[Path, Bundle], tmp_path: Path) -> None:
    program = (
        "import sys; from splitrail.stages.engines.registry import *; from splitrail.stages.engine_trial import *\n"
        "register_engine(EngineKind('hanging', 'odd_engines:hanging', 'numpy', 'none', ('fp32',)))\n"
        "try_engine(sys.argv[1], 'hanging', 'fp32', threads=1, timing_s=0, timeout_s=1000)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", program, str(bundle[0])], env=environment)
    try:
        deadline = time.monotonic() + 30
        while not (trials := psutil.Process(parent.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert len(trials) == 1
    assert psutil.wait_procs(trials, timeout=20)[1] == []


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_trial_in_this_process_times_the_whole_chain(bundle: tuple[Path, Bundle], engine: str) -> None:
    trial = run_trial(bundle[0], engine, "fp32", threads=1, timing_s=0)
    assert trial.failure == trial.disagreement == ""
    assert trial.num_runs == 5
    assert trial.chain_ns is not None
    assert trial.chain_ns > 0
    assert trial.agreement is not None
    assert trial.agreement.num_detections == trial.agreement.num_matched
    assert 0 < trial.agreement.wire_error < 1e-5


def test_it_is_decided_once(bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = stub_trials(monkeypatch, trial_of("a", 300), trial_of("b", 100, DIFFERS), trial_of("c", 200))
    cache = tmp_path / "not" / "there"
    first = choose(bundle, cache)
    assert first.engine == "c"
    assert tried == ["a", "b", "c"]
    assert choose(bundle, cache) == first
    assert tried == ["a", "b", "c"]
    # What a decision holds for is more than the bundle.
    choose(bundle, cache, threads=2)
    choose(bundle, cache, candidates=[A])
    choose((bundle[0], bundle[1].model_copy(update={"detector": "another"})), cache)
    monkeypatch.setattr("platform.node", lambda: "another-host")
    choose(bundle, cache)
    assert tried == [*"abc", *"abc", "a", *"abc", *"abc"]


@pytest.mark.parametrize("damage", ["", "no JSON", "{}", "[]", "key", "more"])
def test_a_damaged_decision_is_made_again(
    bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    tried = stub_trials(monkeypatch, trial_of("a", 300), trial_of("b", 200), trial_of("c", 250))
    choose(bundle, tmp_path)
    (kept,) = tmp_path.glob("engine-*.json")
    record = json.loads(kept.read_text())
    if damage == "key":
        record["key"]["host"] = "another"
        damage = json.dumps(record)
    elif damage == "more":
        damage = json.dumps(record | {"surprise": 1})
    kept.write_text(damage)
    assert choose(bundle, tmp_path).engine == "b"
    assert tried == [*"abc", *"abc"]
    assert choose(bundle, tmp_path).engine == "b"
    assert len(tried) == 6


def test_nothing_that_agrees_is_an_error_with_every_reason_and_is_not_kept(
    bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = stub_trials(monkeypatch, trial_of("a", 1, DIFFERS), trial_of("b", 1, None, "it crashed"))
    for _ in range(2):
        with pytest.raises(EngineError, match="a fp32: 1 of 2 has no counterpart; b fp32: it crashed"):
            choose(bundle, tmp_path, [A, B])
    assert tried == ["a", "b", "a", "b"]


def test_a_cache_that_cannot_be_written_stops_nothing(
    bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = stub_trials(monkeypatch, trial_of("a", 1))
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        assert choose(bundle, tmp_path / "file" / "cache", [A]).engine == "a"
    assert tried == ["a", "a"]


def test_a_host_without_engines_is_told_what_to_install(
    bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_kinds", {})
    register_engine(EngineKind("other", "nowhere:open", "no_such_library", "other", ("fp32",)))
    register_engine(EngineKind("slow", "nowhere:open", "numpy", "none", ("fp32",), automatic=False))
    with pytest.raises(EngineError, match=r"other: not installed: pip install 'splitrail\[other\]'"):
        choose_engine(*bundle, threads=1, cache=tmp_path)


def test_auto_leaves_out_what_is_not_automatic(
    bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_kinds", {})
    register_engine(EngineKind("quick", "nowhere:open", "numpy", "none", ("fp32", "fp16")))
    register_engine(EngineKind("heavy", "nowhere:open", "numpy", "none", ("fp32",), automatic=False))
    tried = stub_trials(monkeypatch, trial_of("quick", 2), trial_of("quick", 1, precision="fp16"))
    choice = choose_engine(*bundle, threads=1, cache=tmp_path)
    assert (choice.engine, choice.precision) == ("quick", "fp16")
    assert tried == ["quick", "quick"]


def test_whoever_waits_too_long_for_another_process_is_told(
    bundle: tuple[Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = stub_trials(monkeypatch, trial_of("a", 1))
    choose(bundle, tmp_path, [A])
    (lock,) = tmp_path.glob("*.lock")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match=r"another process .* more than 0.2 s .*\.lock"):
            choose_engine(*bundle, threads=1, cache=tmp_path, candidates=[A], lock_timeout_s=0.2)
    assert choose(bundle, tmp_path, [A]).engine == "a"
    assert tried == ["a"]


def test_ranks_of_one_host_decide_once_and_alike(bundle: tuple[Path, Bundle], tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from splitrail.stages.bundle import Bundle; from splitrail.stages.engine_choice import choose_engine\n"
        "choice = choose_engine(sys.argv[1], Bundle.load(sys.argv[1]), threads=1, cache=Path(sys.argv[2]), timing_s=0,\n"
        "    candidates=[('onnxruntime', 'fp32'), ('openvino', 'fp32')], on_trial=lambda *_: print('tried'))\n"
        "print(choice)"
    )
    command = [sys.executable, "-c", program, str(bundle[0]), str(tmp_path)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert sum(output.count("tried") for output in outputs) == 2
    assert len({output.replace("tried\n", "") for output in outputs}) == 1
