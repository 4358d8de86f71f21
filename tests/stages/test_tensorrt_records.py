"""The fakes have what the real bindings have, under the same names and with the same arguments, and lack what they lack.

`fakes/api-VERSION.json` is what the published bindings of 10.16 and 11.4 tell of themselves (their classes, members and
signatures), made by `fakes/record.py`. Of 8.2 there is no such record: its names are those of NVIDIA's reference for 8.2.
"""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

FAKES = Path(__file__).parent / "fakes"
RECORDS = {"10": "10.16.1.11", "11": "11.4.0.106"}


@pytest.fixture(params=RECORDS)
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, dict]:
    """A fake, and the record of the real one."""
    for folder in ("shared", f"tensorrt_{request.param}"):
        monkeypatch.syspath_prepend(FAKES / folder)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pycuda", "tensorrt", "fake_tensorrt"):
            monkeypatch.delitem(sys.modules, name)
    record = json.loads((FAKES / f"api-{RECORDS[request.param]}.json").read_text())
    fake = importlib.import_module("tensorrt")
    yield fake, record
    for name in ("pycuda", "pycuda.driver", "tensorrt", "fake_tensorrt"):
        sys.modules.pop(name, None)


def arguments_of(signature: str) -> list[str]:
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    return re.findall(r"(?:^|, )(\w+):", inside)


def test_the_version_and_every_class_of_the_fake_is_the_real_ones(pair: tuple[ModuleType, dict]) -> None:
    fake, record = pair
    assert fake.__version__ == record["version"]
    assert set(record["functions"]) >= {"init_libnvinfer_plugins"}
    for name, kind in vars(fake).items():
        if inspect.isclass(kind) and name != "Generation":
            assert name in record["classes"], name


def test_every_member_of_the_fake_is_there_with_the_same_arguments(pair: tuple[ModuleType, dict]) -> None:
    fake, record = pair
    num_compared = 0
    for name, known in record["classes"].items():
        kind = getattr(fake, name, None)
        if kind is None:
            continue
        if isinstance(known, list):
            assert set(kind.__members__) <= set(known), name
            continue
        for member, value in vars(kind).items():
            if member.startswith("_") or name in ("INetworkDefinition", "ITensor") or isinstance(value, type):
                continue
            assert member in known, f"{name}.{member}"
            if callable(value):
                wanted = list(inspect.signature(value).parameters)
                assert any(arguments_of(text)[: len(wanted)] == wanted for text in known[member]), f"{name}.{member}"
                num_compared += 1
            else:
                assert known[member] == "property", f"{name}.{member}"
    assert num_compared > 12


@pytest.mark.parametrize("name", ["IInt8EntropyCalibrator2", "IProgressMonitor", "MemoryPoolType"])
def test_a_class_is_in_the_fake_exactly_if_the_real_one_has_it(pair: tuple[ModuleType, dict], name: str) -> None:
    fake, record = pair
    assert hasattr(fake, name) == (name in record["classes"])


@pytest.mark.parametrize(
    ("owner", "member"),
    [
        ("BuilderFlag", "FP16"),
        ("BuilderFlag", "INT8"),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        ("Builder", "platform_has_fast_fp16"),
        ("Builder", "platform_has_fast_int8"),
        ("IBuilderConfig", "int8_calibrator"),
        ("IBuilderConfig", "progress_monitor"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IBuilderConfig", "max_workspace_size"),
        ("ICudaEngine", "num_io_tensors"),
        ("ICudaEngine", "num_bindings"),
        ("IExecutionContext", "execute_async_v2"),
        ("IExecutionContext", "execute_async_v3"),
    ],
)
def test_what_the_generations_differ_in(pair: tuple[ModuleType, dict], owner: str, member: str) -> None:
    fake, record = pair
    assert hasattr(getattr(fake, owner), member) == (member in record["classes"][owner])


def test_the_calibrator_and_the_monitor_override_what_the_real_ones_call(pair: tuple[ModuleType, dict]) -> None:
    fake, record = pair
    from splitrail.stages.engines.tensorrt.build import _monitor

    monitor = type(_monitor(fake, object()))
    for name in ("phase_start", "step_complete", "phase_finish"):
        (known,) = record["classes"]["IProgressMonitor"][name]
        assert list(inspect.signature(getattr(monitor, name)).parameters) == arguments_of(known)
    if hasattr(fake, "IInt8EntropyCalibrator2"):
        from splitrail.stages.engines.tensorrt.api import Calibration
        from splitrail.stages.engines.tensorrt.flags import entropy_calibrator

        calibrator = type(entropy_calibrator(fake, Calibration(()), ()))
        for name in ("get_batch_size", "get_batch", "read_calibration_cache", "write_calibration_cache"):
            (known,) = record["classes"]["IInt8EntropyCalibrator2"][name]
            assert list(inspect.signature(getattr(calibrator, name)).parameters) == arguments_of(known), name
