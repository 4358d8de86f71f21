"""Published layouts, proven against transformers' own DETR with random weights and random normalisation statistics."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from splitrail.models.detr import Detr, DetrConfig
from splitrail.models.golden import picture
from splitrail.models.names import config_of
from splitrail.models.operators import load_operators
from splitrail.models.random_init import random_detr
from splitrail.models.weights import WeightsError, load_weights, save_weights

load_operators()  # transformers imports torchvision where it is installed
transformers = pytest.importorskip("transformers")

# Height, width and valid size; (None: no padding, so no mask).
INPUTS = [
    ((224, 320), None),
    ((201, 333), None),
    ((256, 192), (200, 192)),
    ((256, 320), (256, 111)),
    ((250, 331), (177, 203)),
]
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def reference(depth: int, encoder_layers: int, decoder_layers: int, width: int = 64) -> torch.nn.Module:
    """transformers' DETR with weights of such sizes that queries and pictures differ; `width` channels in its stem."""
    depths = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    expansion = 1 if depth < 50 else 4
    backbone = transformers.ResNetConfig(
        depths=depths,
        out_features=["stage4"],
        layer_type="basic" if depth < 50 else "bottleneck",
        embedding_size=width,
        hidden_sizes=[expansion * width * 2**stage for stage in range(4)],
    )
    torch.manual_seed(depth)
    model = transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            use_timm_backbone=False,
            backbone_config=backbone,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            num_labels=91,
        )
    )
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_mean"):
                value.normal_(0, 0.2)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif "normalization" in name:
                value.normal_(0, 0.2).add_(0.6 if name.endswith("weight") else 0)
                # Whole residual branches, a hundred layers deep, would blow rounding errors up a hundredfold.
                value.mul_(0.2 if "layer.2." in name else 1)
            elif "norm" in name:
                value.normal_(0, 0.1).add_(1 if name.endswith("weight") else 0)
            elif "query" in name:
                value.normal_()
            elif value.dim() == 2:
                value.normal_(0, (4.0 if re.search("[qk]_proj", name) else 1.0) / value.shape[1] ** 0.5)
            elif value.dim() == 1:
                value.normal_(0, 0.1)
        model.eval()
        features = []
        hook = model.model.input_projection.register_forward_hook(lambda module, inputs, y: features.append(y))
        model(pixel_values=picture_of(256, 320))
        hook.remove()
        model.model.input_projection.bias.sub_(features[0].mean((0, 2, 3)))
        for parameter in model.model.input_projection.parameters():
            parameter.div_(features[0].std())
    return model


def picture_of(height: int, width: int) -> torch.Tensor:
    """Normalised image [1, 3, H, W]."""
    pixels = picture((height, width), np.random.default_rng(height))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 64 - 2


def assert_same(model: torch.nn.Module, detr: Detr) -> None:
    detr.eval()
    answers = []
    for (height, width), valid in INPUTS:
        images = picture_of(height, width)
        mask = torch.ones(1, height, width, dtype=torch.int64)
        valid_size = None
        if valid is not None:
            mask[:, valid[0] :] = 0
            mask[:, :, valid[1] :] = 0
            images = images * mask
            valid_size = torch.tensor([valid])
        with torch.inference_mode():
            expected = model(pixel_values=images, pixel_mask=mask)
            actual = detr(images, valid_size)[-1]
        assert float((actual.logits - expected.logits).abs().max()) <= TOLERANCE
        assert float((actual.boxes - expected.pred_boxes).abs().max()) <= TOLERANCE
        # Otherwise the comparison would say little: queries differ, and so do pictures (below).
        assert float(expected.logits.std(1).mean()) > 100 * TOLERANCE
        answers.append(expected.logits)
    assert float((answers[0] - answers[1]).abs().max()) > 100 * TOLERANCE


def to_timm_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the files of facebook/detr-resnet-50 have it: `model.backbone.conv_encoder.model.layer1.0.conv1.weight`."""
    prefix = "model.backbone.conv_encoder.model."
    kinds = {"convolution": "conv", "normalization": "bn"}
    renamed = {}
    for name, value in state.items():
        rest = name.removeprefix(prefix)
        if match := re.fullmatch(r"embedder\.embedder\.(\w+)\.(\w+)", rest):
            rest = f"{kinds[match[1]]}1.{match[2]}"
        elif match := re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(\w+)\.(\w+)", rest):
            rest = f"layer{int(match[1]) + 1}.{match[2]}.downsample.{int(match[3] == 'normalization')}.{match[4]}"
        elif match := re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(\w+)\.(\w+)", rest):
            rest = f"layer{int(match[1]) + 1}.{match[2]}.{kinds[match[4]]}{int(match[3]) + 1}.{match[5]}"
        renamed[(prefix if name.startswith(prefix) else "") + rest] = value
    return renamed


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path, DetrConfig]:
    """A narrow ResNet-18, one encoder and two decoder layers, saved by transformers."""
    torch.set_num_threads(1)
    model = reference(18, 1, 2, width=16)
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    return model, folder, config_of("detr-resnet-18", {"encoder_layers": 1, "decoder_layers": 2, "width": 16})


def test_folder_of_transformers(small: tuple[torch.nn.Module, Path, DetrConfig]) -> None:
    model, folder, config = small
    detr = Detr(config)
    loaded = load_weights(detr, str(folder), "detr-resnet-18")
    assert_same(model, detr)
    assert loaded.classes is None, "LABEL_0 and so on are no names"


def test_timm_names(small: tuple[torch.nn.Module, Path, DetrConfig], tmp_path: Path) -> None:
    model, folder, config = small
    state = to_timm_names(load_file(folder / "model.safetensors"))
    assert "model.backbone.conv_encoder.model.layer2.0.downsample.1.running_var" in state
    save_file(state, tmp_path / "timm.safetensors")
    detr = Detr(config)
    load_weights(detr, str(tmp_path / "timm.safetensors"), "detr-resnet-18")
    assert_same(model, detr)


def test_names_of_transformers_in_memory(small: tuple[torch.nn.Module, Path, DetrConfig], tmp_path: Path) -> None:
    """What a release that saves its own names would write: `backbone.model`, `o_proj`, `mlp.fc1`."""
    model, _, config = small
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "new.safetensors")
    detr = Detr(config)
    load_weights(detr, str(tmp_path / "new.safetensors"), "detr-resnet-18")
    assert_same(model, detr)


def test_bottlenecks(tmp_path: Path) -> None:
    model = reference(50, 1, 1, width=16)
    model.save_pretrained(tmp_path)
    detr = Detr(config_of("detr-resnet-50", {"encoder_layers": 1, "decoder_layers": 1, "width": 16}))
    load_weights(detr, str(tmp_path), "detr-resnet-50")
    assert_same(model, detr)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("timm", [False, True])
def test_full_detectors(depth: int, timm: bool, tmp_path: Path) -> None:
    model = reference(depth, 6, 6)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if timm:
        save_file(to_timm_names(load_file(file)), file)
    detr = Detr(config_of(f"detr-resnet-{depth}"))
    load_weights(detr, str(tmp_path), f"detr-resnet-{depth}")
    assert_same(model, detr)


def original_checkpoint(detr: Detr) -> dict[str, torch.Tensor]:
    return {re.sub("^backbone\\.", "backbone.0.body.", name): value for name, value in detr.state_dict().items()}


SMALL = DetrConfig(depth=18, width=8, num_classes=4, num_queries=7, d_model=32, heads=4, ffn=48, encoder_layers=1)


@pytest.fixture
def trained() -> Detr:
    return random_detr(SMALL, 0)


def assert_equal_states(a: Detr, b: Detr) -> None:
    other = b.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("wrapped", [True, False])
def test_original_checkpoint(trained: Detr, wrapped: bool, tmp_path: Path) -> None:
    state = original_checkpoint(trained)
    assert "backbone.0.body.layer1.0.conv1.weight" in state
    torch.save({"model": state} if wrapped else state, tmp_path / "detr.pth")
    fresh = Detr(SMALL)
    loaded = load_weights(fresh, str(tmp_path / "detr.pth"), "detr-resnet-18")
    assert_equal_states(trained, fresh)
    assert loaded.source == "detr.pth"


def test_own_layout_round_trip(trained: Detr, tmp_path: Path) -> None:
    save_weights(trained, tmp_path / "own.safetensors")
    fresh = Detr(SMALL)
    load_weights(fresh, str(tmp_path / "own.safetensors"), "detr-resnet-18")
    assert_equal_states(trained, fresh)


def test_weights_of_a_live_normalisation_go_into_a_frozen_one(tmp_path: Path) -> None:
    live = Detr(DetrConfig(**{**vars(SMALL), "norm": "batch"}))
    live.train()(torch.randn(2, 3, 64, 64))
    save_weights(live, tmp_path / "own.safetensors")
    fresh = Detr(SMALL)
    load_weights(fresh, str(tmp_path / "own.safetensors"), "detr-resnet-18")
    assert torch.equal(fresh.backbone.bn1.running_mean, live.backbone.bn1.running_mean)


def test_class_names_come_from_config_json(trained: Detr, tmp_path: Path) -> None:
    save_weights(trained, tmp_path / "model.safetensors")
    names = {str(label): name for label, name in enumerate(("N/A", "cup", "ball", "cone"))}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": names}))
    assert load_weights(Detr(SMALL), str(tmp_path), "detr-resnet-18").classes == ("N/A", "cup", "ball", "cone")


def saved(state: dict[str, torch.Tensor], tmp_path: Path) -> str:
    torch.save({"model": state}, tmp_path / "detr.pth")
    return str(tmp_path / "detr.pth")


def refused(weights: str, detector: str = "detr-resnet-18") -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(Detr(SMALL), weights, detector)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tensors_are_named(trained: Detr, tmp_path: Path) -> None:
    state = original_checkpoint(trained)
    del state["transformer.encoder.layers.0.norm1.bias"], state["query_embed.weight"]
    text = refused(saved(state, tmp_path))
    assert "lacks 2 tensors" in text
    assert "transformer.encoder.layers.0.norm1.bias" in text


def test_tensors_left_over_are_named(trained: Detr, tmp_path: Path) -> None:
    state = original_checkpoint(trained) | {"mask_head.lay1.weight": torch.zeros(1)}
    assert "1 tensors, the first being mask_head.lay1.weight" in refused(saved(state, tmp_path))


def test_other_numbers_of_classes_and_queries_are_told(trained: Detr, tmp_path: Path) -> None:
    state = original_checkpoint(trained)
    other = random_detr(DetrConfig(**{**vars(SMALL), "num_classes": 9}), 0)
    assert "num_classes = 9" in refused(saved(original_checkpoint(other), tmp_path))
    state["query_embed.weight"] = torch.zeros(13, SMALL.d_model)
    assert "num_queries = 13" in refused(saved(state, tmp_path))


def test_nothing_is_unpickled(trained: Detr, tmp_path: Path) -> None:
    torch.save({"model": original_checkpoint(trained), "args": argparse.Namespace(lr=1)}, tmp_path / "detr.pth")
    assert "nothing else is unpickled" in refused(str(tmp_path / "detr.pth"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "not read" in refused(str(tmp_path / "pytorch_model.bin"))
    assert "model.safetensors" in refused(str(tmp_path))


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth"):
        (tmp_path / name).write_bytes(b"not weights at all")
        assert name in refused(str(tmp_path / name))
    assert "no weights at" in refused(str(tmp_path / "absent.pth"))
    torch.save({"model": {"epoch": 3}}, tmp_path / "b.pth")
    assert "no state" in refused(str(tmp_path / "b.pth"))


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(repository: str, file: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"{repository}/{file}: name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    text = refused("hub", "detr-resnet-50")
    assert "facebook/detr-resnet-50" in text
    assert "--weights FILE" in text


def test_the_hub_is_asked_for_the_detectors_own_repository(
    trained: Detr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    save_weights(trained, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fresh = Detr(SMALL)
    loaded = load_weights(fresh, "hub", "detr-resnet-101-dc5")
    assert asked == [("facebook/detr-resnet-101-dc5", name) for name in ("config.json", "model.safetensors")]
    assert loaded.source == "facebook/detr-resnet-101-dc5 from the hub"
    assert_equal_states(trained, fresh)


def test_no_official_weights_of_small_backbones() -> None:
    assert "detr-resnet-18" in refused("hub", "detr-resnet-18")
