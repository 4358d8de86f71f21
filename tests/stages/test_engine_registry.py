"""Engines by name, and what a host lacks."""

import importlib.util
from pathlib import Path

import pytest

from splitrail.pipeline.errors import EngineError
from splitrail.stages.bundle import Bundle
from splitrail.stages.engines import registry
from splitrail.stages.engines.registry import (
    EngineKind,
    available_engines,
    engine_offers,
    open_engine,
    register_engine,
)
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_synthetic_bundle(tmp_path)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_is_opened_by_name_with_the_outputs_asked_for(name: str, tmp_path: Path, bundle: Bundle) -> None:
    engine = open_engine(name, "fp32", tmp_path, bundle, 0, ["features_uint8"], 1)
    frame = bundle.golden_frames(tmp_path)[0]
    result = engine.run({key: frame[key] for key in ("pixels", "valid_size")}, ["features_uint8"])
    assert (engine.name, engine.precision) == (name, "fp32")
    assert result["features_uint8"].shape == (1, 16, 8, 12)
    engine.close()


def test_an_unknown_engine_is_answered_with_those_there_are(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"no engine \[tflite\]; take one of onnxruntime, openvino, tensorrt"):
        open_engine("tflite", "fp16", tmp_path, bundle, 0, ["features"], 1)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_device_that_an_engine_does_not_have_is_refused(name: str, tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"\[cuda\]"):
        open_engine(name, "fp32", tmp_path, bundle, 0, ["features"], 1, "cuda")


def test_a_registered_engine_is_offered_and_its_library_asked_for(tmp_path: Path, bundle: Bundle) -> None:
    register_engine(EngineKind("other", "no_such_library.here:open", "no_such_library", "other", ("fp32", "fp16")))
    offers = {(offer.engine, offer.precision): offer for offer in engine_offers()}
    for precision in ("fp32", "fp16"):
        assert offers["other", precision].missing == "not installed: pip install 'splitrail[other]'"
        assert offers["other", precision].version == ""
        assert ("other", precision) not in available_engines()
    with pytest.raises(EngineError, match=r"pip install 'splitrail\[other\]'"):
        open_engine("other", "fp32", tmp_path, bundle, 0, ["features"], 1)


def test_offers_tell_versions_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(registry, "_cpu_has_bf16", lambda: False)
    find = importlib.util.find_spec
    offers = {(offer.engine, offer.precision): offer for offer in engine_offers()}
    assert offers["onnxruntime", "fp32"].version == onnxruntime.__version__
    assert "bf16" in offers["openvino", "bf16"].missing
    assert set(available_engines()) == {("onnxruntime", "fp32"), ("openvino", "fp32")}
    monkeypatch.setattr(registry, "_cpu_has_bf16", lambda: True)
    assert ("openvino", "bf16") in available_engines()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert available_engines() == [("onnxruntime", "fp32")]
