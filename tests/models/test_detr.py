import dataclasses
import subprocess
import sys

import pytest
import torch

from splitrail.models.cut import split
from splitrail.models.detr import Detr, DetrConfig
from splitrail.models.names import COCO_CLASSES, DETECTORS, class_names, config_of
from splitrail.models.pixels import IMAGE_MEAN, IMAGE_STD
from splitrail.models.random_init import random_detr
from splitrail.models.resnet import ResNet
from splitrail.pipeline.errors import ConfigError

SMALL = DetrConfig(
    depth=18, width=8, num_classes=4, num_queries=7, d_model=32, heads=4, ffn=48, encoder_layers=2, decoder_layers=3
)


@pytest.fixture(scope="module")
def detr() -> Detr:
    torch.set_num_threads(1)
    return random_detr(SMALL, seed=0)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


def whole(detr: Detr, pixels: torch.Tensor, valid: tuple[int, int], fixed: bool = True) -> tuple[torch.Tensor, ...]:
    (segment,) = split(detr, (), tuple(pixels.shape[1:3]) if fixed else None)
    with torch.inference_mode():
        return segment(pixels, torch.tensor(valid))


def test_normalisation_is_imagenets_and_padding_is_zero_after_it(detr: Detr) -> None:
    pixels = picture(40, 50)
    images = detr.normalise(pixels, torch.tensor([(30, 20)]))
    expected = (pixels[0].float() / 255 - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    torch.testing.assert_close(images[0, :, :30, :20], expected[:30, :20].permute(2, 0, 1), rtol=0, atol=1e-6)
    assert not images[0, :, 30:].any()
    assert not images[0, :, :, 20:].any()


def test_what_lies_in_the_padding_changes_nothing(detr: Detr) -> None:
    pixels = picture(96, 128)
    clean = pixels.clone()
    clean[:, 70:] = 0
    clean[:, :, 90:] = 0
    for a, b in zip(whole(detr, pixels, (70, 90)), whole(detr, clean, (70, 90)), strict=True):
        assert torch.equal(a, b)


def test_the_mask_matters(detr: Detr) -> None:
    """Padding without its mask is another answer: what a detector never trained with padding loses AP by."""
    pixels = picture(128, 192)
    pixels[:, :, 96:] = 0
    masked, unmasked = whole(detr, pixels, (128, 96)), whole(detr, pixels, (128, 192))
    assert float((masked[0] - unmasked[0]).abs().max()) > 0.1


def test_dynamic_graphs_take_padding_to_multiples_of_the_stride(detr: Detr) -> None:
    pixels = picture(128, 192)
    for valid in ((128, 192), (100, 192), (128, 65)):
        fixed, dynamic = whole(detr, pixels, valid), whole(detr, pixels, valid, fixed=False)
        assert all(torch.equal(a, b) for a, b in zip(fixed, dynamic, strict=True))


def test_outputs_depend_on_the_picture(detr: Detr) -> None:
    a, b = whole(detr, picture(96, 128, 1), (96, 128)), whole(detr, picture(96, 128, 2) // 3, (96, 128))
    assert float((a[0] - b[0]).abs().max()) > 0.1


def test_training_forward_equals_the_graphs(detr: Detr) -> None:
    pixels = picture(96, 130)
    logits, boxes = whole(detr, pixels, (80, 101))
    valid_size = torch.tensor([(80, 101)])
    with torch.inference_mode():
        predictions = detr(detr.normalise(pixels, valid_size), valid_size)
    assert len(predictions) == SMALL.decoder_layers
    torch.testing.assert_close(predictions[-1].logits, logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(predictions[-1].boxes, boxes, rtol=0, atol=1e-5)


def test_a_batch_gives_each_image_its_own_answer(detr: Detr) -> None:
    sizes = torch.tensor([(96, 64), (50, 128)])
    images = torch.cat([detr.normalise(picture(96, 128, seed), sizes[seed : seed + 1]) for seed in range(2)])
    with torch.inference_mode():
        both = detr(images, sizes)[-1]
        for index in range(2):
            alone = detr(images[index : index + 1], sizes[index : index + 1])[-1]
            torch.testing.assert_close(both.logits[index], alone.logits[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(both.boxes[index], alone.boxes[0], rtol=0, atol=1e-5)


def test_attention_in_training_is_the_same_function() -> None:
    """Training takes torch's fused attention, the graphs explicit products."""
    config = dataclasses.replace(SMALL, dropout=0.0)
    detr = random_detr(config, seed=1)
    valid_size = torch.tensor([(80, 101)])
    images = detr.normalise(picture(96, 130), valid_size)
    with torch.inference_mode():
        explicit = detr.eval()(images, valid_size)[-1]
        fused = detr.train()(images, valid_size)[-1]
    torch.testing.assert_close(fused.logits, explicit.logits, rtol=0, atol=1e-4)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    detr = Detr(dataclasses.replace(SMALL, norm="batch")).train()
    predictions = detr(torch.randn(2, 3, 64, 96), torch.tensor([(64, 96), (40, 96)]))
    sum((p.logits.square().sum() + p.boxes.square().sum() for p in predictions), torch.zeros(())).backward()
    without = [name for name, parameter in detr.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in detr.parameters() if parameter.grad is not None)


def test_dropout_acts_in_training_only(detr: Detr) -> None:
    training = Detr(SMALL)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        training.eval()
        assert torch.equal(training(images)[-1].logits, training(images)[-1].logits)
        training.train()
        assert not torch.equal(training(images)[-1].logits, training(images)[-1].logits)


@pytest.mark.parametrize(
    ("depth", "dilation", "stride"), [(18, False, 32), (18, True, 16), (50, False, 32), (50, True, 16)]
)
def test_resnet_stages(depth: int, dilation: bool, stride: int) -> None:
    with torch.device("meta"):
        backbone = ResNet(depth, dilation=dilation)
        stages = backbone.stages(torch.zeros(1, 3, 333, 415))
    assert backbone.stride == stride
    expected = [4, 8, 16, stride]
    assert [tuple(s.shape[2:]) for s in stages] == [(-(-333 // s), -(-415 // s)) for s in expected]
    assert tuple(s.shape[1] for s in stages) == backbone.num_channels


def test_width_scales_every_channel() -> None:
    with torch.device("meta"):
        assert ResNet(18, width=16).num_channels == (16, 32, 64, 128)
        assert ResNet(101, width=16).num_channels == (64, 128, 256, 512)


def test_live_and_frozen_normalisation_have_the_same_keys() -> None:
    with torch.device("meta"):
        frozen, live = ResNet(18, width=8).state_dict(), ResNet(18, width=8, norm="batch").state_dict()
    assert set(frozen) == {name for name in live if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 19}, "ResNet-19"),
        ({"width": 0}, "width"),
    ],
)
def test_impossible_backbones_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Detr(dataclasses.replace(SMALL, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 30},
        {"heads": 5},
        {"num_queries": 0},
        {"decoder_layers": 0},
        {"encoder_layers": -1},
        {"dropout": 1.0},
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        dataclasses.replace(SMALL, **changes)


def test_no_encoder_layer_is_possible() -> None:
    detr = Detr(dataclasses.replace(SMALL, encoder_layers=0)).eval()
    assert detr(torch.randn(1, 3, 64, 64))[-1].boxes.shape == (1, SMALL.num_queries, 4)


def test_names() -> None:
    assert config_of("detr-resnet-101-dc5") == DetrConfig(depth=101, dilation=True)
    assert config_of("detr-resnet-18", {"width": 16, "ffn": 64}) == DetrConfig(depth=18, width=16, ffn=64)
    with pytest.raises(ConfigError, match="detr-resnet-50"):
        config_of("detr-resnet-51")
    with pytest.raises(ConfigError, match="num_queries"):
        config_of("detr-resnet-50", {"queries": 10})
    assert all(config.num_classes == 91 for config in DETECTORS.values())


def test_cocos_classes() -> None:
    assert len(COCO_CLASSES) == 91
    named = {1: "person", 3: "car", 13: "stop sign", 17: "cat", 44: "bottle", 62: "chair", 90: "toothbrush"}
    assert {label: COCO_CLASSES[label] for label in named} == named
    gaps = [label for label, name in enumerate(COCO_CLASSES) if name == "N/A"]
    assert gaps == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert class_names(91) == COCO_CLASSES
    assert class_names(2) == ("class 0", "class 1")


def test_random_weights_repeat_by_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (random_detr(SMALL, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert not torch.equal(first["backbone.bn1.running_mean"], other["backbone.bn1.running_mean"])


def test_without_torch_the_remedy_is_told() -> None:
    code = "import sys; sys.modules['torch'] = None; import splitrail.models"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("UsageError: torch is not installed; pip install 'splitrail[torch]'")
