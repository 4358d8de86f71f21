from pathlib import Path

import numpy as np
import pytest
import torch

from splitrail.models.engine import open_torch_engine
from splitrail.models.export import export_bundle
from splitrail.pipeline.errors import EngineError
from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import encode
from splitrail.stages.engines.registry import EngineKind, open_engine, register_engine

OVERRIDES = {"num_classes": 5, "num_queries": 7, "encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "width": 8}


@pytest.fixture(scope="module", params=[(96, 161), None], ids=["fixed", "dynamic"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("bundle") / "b"
    export_bundle(
        "detr-resnet-18",
        out,
        size=request.param,
        cuts=("projection", "memory"),
        overrides=OVERRIDES,
        include_torch=True,
        short_side=128,
        max_long_side=213,
    )
    return out


def test_the_chain_gives_the_golden_frames_bit_for_bit(folder: Path) -> None:
    bundle = Bundle.load(folder)
    engines = [open_torch_engine(folder, bundle, index, 1) for index in range(3)]
    for frame in bundle.golden_frames(folder):
        tensors = {"pixels": frame["pixels"], "valid_size": frame["valid_size"]}
        for stage, engine in zip(bundle.stages, engines, strict=True):
            names = stage.wire_tensors or ("pred_logits", "pred_boxes")
            tensors.update(engine.run(tensors, names))
            for name in names:
                assert np.array_equal(tensors[name], frame[name]), name
    for engine in engines:
        engine.close()


def test_every_output_of_the_graph_is_there(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    bundle = Bundle.load(folder)
    for index, stage in enumerate(bundle.stages):
        frame = bundle.golden_frames(folder)[1]
        inputs = {tensor.name: frame[tensor.name] for tensor in stage.inputs}
        names = [tensor.name for tensor in stage.outputs]
        ours = open_torch_engine(folder, bundle, index, 1).run(inputs, names)
        theirs = onnxruntime.InferenceSession(str(folder / stage.graph)).run(names, inputs)
        assert list(ours) == names
        for name, expected in zip(names, theirs, strict=True):
            assert ours[name].dtype == expected.dtype
            assert ours[name].shape == expected.shape
            assert ours[name].flags.c_contiguous
            tolerance = 1 if expected.dtype == np.uint8 else 1e-2
            np.testing.assert_allclose(ours[name].astype(float), expected.astype(float), rtol=0, atol=tolerance)


def test_wire_forms_have_the_codecs_bytes(folder: Path) -> None:
    bundle = Bundle.load(folder)
    frame = bundle.golden_frames(folder)[0]
    engine = open_torch_engine(folder, bundle, 0, 1)
    for wire in ("fp16", "uint8"):
        expected = encode(frame["features"], wire)
        results = engine.run(frame, [f"features{suffix}" for suffix in expected])
        for suffix, array in expected.items():
            assert results[f"features{suffix}"].tobytes() == array.tobytes()


def test_targets_are_written_and_returned(folder: Path) -> None:
    bundle = Bundle.load(folder)
    frame = bundle.golden_frames(folder)[0]
    engine = open_torch_engine(folder, bundle, 0, 1)
    names = ["features_uint8", "features_scale", "features_zero_point"]
    expected = engine.run(frame, names)
    size = expected["features_uint8"].nbytes
    message = np.zeros(256 + size, np.uint8)
    target = message[256:].reshape(expected["features_uint8"].shape)
    results = engine.run(frame, names, {"features_uint8": target})
    assert results["features_uint8"] is target
    assert np.array_equal(message[256:], expected["features_uint8"].ravel())
    assert not message[:256].any()
    assert np.array_equal(results["features_scale"], expected["features_scale"])


def test_outputs_outlive_the_next_run(folder: Path) -> None:
    bundle = Bundle.load(folder)
    first, second = bundle.golden_frames(folder)
    engine = open_torch_engine(folder, bundle, 0, 1)
    kept = engine.run(first, ["features"])["features"]
    engine.run(second, ["features"])
    assert np.array_equal(kept, first["features"])


def test_a_stage_reads_only_its_own_weights(folder: Path) -> None:
    bundle = Bundle.load(folder)
    engine = open_torch_engine(folder, bundle, 2, 1)
    loaded = {
        name
        for name, value in engine._segment.detr.state_dict().items()
        if not value.is_meta  # type: ignore[attr-defined]
    }
    assert loaded
    assert all(
        name.startswith(("transformer.decoder.", "query_embed.", "class_embed.", "bbox_embed.")) for name in loaded
    )


def test_it_opens_through_the_registry(folder: Path) -> None:
    register_engine(EngineKind("torch", "splitrail.models.engine:open_torch_engine", "torch", "torch", ("fp32",)))
    bundle = Bundle.load(folder)
    frame = bundle.golden_frames(folder)[0]
    engine = open_engine("torch", "fp32", folder, bundle, 0, ("features",), 1)
    assert (engine.name, engine.precision) == ("torch", "fp32")
    assert np.array_equal(engine.run(frame, ["features"])["features"], frame["features"])


def test_what_it_cannot_do_is_told(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(folder)
    without = bundle.model_copy(update={"torch_model": None})
    with pytest.raises(EngineError, match="no weights for torch"):
        open_torch_engine(folder, without, 0, 1)
    with pytest.raises(EngineError, match="not in int8"):
        open_torch_engine(folder, bundle, 0, 1, precision="int8")
    with pytest.raises(EngineError, match="'warp'"):
        open_torch_engine(folder, bundle, 0, 1, device="warp")
    with pytest.raises(EngineError, match="'memory'"):
        open_torch_engine(folder, bundle, 0, 1, outputs=("memory",))
    with pytest.raises(EngineError, match="'memory'"):
        open_torch_engine(folder, bundle, 0, 1).run(bundle.golden_frames(folder)[0], ["memory"])
    with pytest.raises(EngineError, match="do not fit"):
        open_torch_engine(tmp_path, bundle, 0, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(folder: Path) -> None:
    bundle = Bundle.load(folder)
    for frame in bundle.golden_frames(folder):
        for index, stage in enumerate(bundle.stages):
            names = stage.wire_tensors or ("pred_logits", "pred_boxes")
            results = open_torch_engine(folder, bundle, index, 1, device="cuda").run(frame, names)
            for name in names:
                error = np.linalg.norm(results[name] - frame[name]) / np.linalg.norm(frame[name])
                assert error <= 1e-4, name
