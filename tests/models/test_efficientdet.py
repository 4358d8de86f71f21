"""EfficientDet: every integer of its compressor, cuts and widths that change nothing, weights, and what is refused.

The integers are closed formulas of the published architectures; those of Assine et al. 2021 count one for each bias and two
for each normalised value beside the multiplications with their additions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from splitrail.launch.inspect import inspect_verb
from splitrail.models import efficientdet_census as counting
from splitrail.models.compressor import KINDS, CompressorKind
from splitrail.models.efficientdet import EfficientDet
from splitrail.models.efficientdet_census import costs_by_width, efficientdet_census, efficientdet_costs
from splitrail.models.efficientdet_config import CHANNELS, EFFICIENTDETS, EfficientDetConfig, efficientdet_config
from splitrail.models.efficientdet_cut import cuts_of, preprocess_of, split
from splitrail.models.efficientdet_tail import anchors, detect
from splitrail.models.efficientdet_weights import load_efficientdet, plain, student_of
from splitrail.models.slimmable import WIDTHS, SlimmableBatchNorm2d, set_width, sliced
from splitrail.models.weights import save_weights
from splitrail.models.weights_error import WeightsError
from splitrail.pipeline.errors import ConfigError

torch.set_num_threads(1)
SMALL = (128, 128)
FEW = (0.25, 0.5, 1.0)


def alive(model: nn.Module) -> nn.Module:
    """Weights that let a picture through, and statistics that differ between widths."""
    with torch.no_grad():
        for name, each in model.named_modules():
            if isinstance(each, nn.BatchNorm2d | SlimmableBatchNorm2d):
                each.running_mean.normal_(0, 0.1)
                each.running_var.uniform_(0.5, 1.5)
            elif isinstance(each, nn.Conv2d) and each.bias is not None and ".se." not in name:
                each.bias.normal_(0, 0.1)
        model.class_net.predict.conv_pw.weight.normal_(0, 0.5)
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def _counted_once() -> Iterator[None]:
    """Several tests and verbs count the same networks; to build one takes longer than to count it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_on_meta", "_costs", "_backbone_channels"):
            patch.setattr(counting, name, cache(getattr(counting, name)))
        yield


@pytest.fixture(scope="module")
def teacher() -> Iterator[EfficientDet]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield alive(EfficientDet(EfficientDetConfig(0, size=SMALL, num_classes=5)))


def pixels() -> Tensor:
    return torch.randint(0, 256, (1, *SMALL, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


VALID = torch.tensor([128, 100])


@pytest.mark.parametrize(("level", "published"), [(0, 642_000_882), (1, 1_444_676_502), (2, 2_272_760_954)])
def test_the_encoder(level: int, published: int) -> None:
    config = EfficientDetConfig(level)
    encoder = efficientdet_costs(config)["encoder"]
    assert encoder.num_published == published
    assert encoder.shape == {0: (40, 64, 64), 1: (40, 80, 80), 2: (48, 96, 96)}[level]
    with torch.device("meta"), FlopCounterMode(display=False) as flops:
        EfficientDet(config).eval().requires_grad_(False).encode(torch.zeros(1, 3, *config.size))
    assert encoder.num_macs == flops.get_total_flops() // 2


@pytest.mark.parametrize(
    ("level", "channels", "published", "parameters"),
    [
        (2, 12, 236_452_908, 32_868),
        (2, 24, 268_524_588, 36_348),
        (2, 36, 300_596_268, 39_828),
        (2, 48, 332_667_948, 43_308),
        (1, 40, 167_941_050, 31_290),
    ],
)
def test_the_compressor(level: int, channels: int, published: int, parameters: int) -> None:
    assert channels in CHANNELS[level]
    compressor = efficientdet_costs(EfficientDetConfig(level, bottleneck=channels))["compressor"]
    assert compressor.num_published == published
    assert compressor.num_parameters == parameters


@pytest.mark.parametrize(("channels", "relative"), [(12, 0.0625), (24, 0.125), (36, 0.1875), (48, 0.25)])
def test_the_wire_of_d2(channels: int, relative: float) -> None:
    counted = efficientdet_census(EfficientDetConfig(2, bottleneck=channels))
    assert counted.relative(counted.row_of("bottleneck")) == relative
    # The slimmed compressor costs what the fixed one of as many channels costs, and has no bias that would count.
    fixed = efficientdet_costs(EfficientDetConfig(2, bottleneck=channels))["compressor"]
    widths = tuple(each / 48 for each in CHANNELS[2])
    slim = efficientdet_costs(EfficientDetConfig(2, bottleneck=48, widths=widths), channels / 48)["compressor"]
    assert slim == fixed


def test_every_width_of_d2() -> None:
    config = EfficientDetConfig(2, bottleneck=48)
    rows = costs_by_width(config)
    assert [row["width"] for row in rows] == list(WIDTHS)
    assert [row["channels"] for row in rows] == [8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48]
    assert rows[0]["wire_elements"] == 73_728
    bandwidth, computation = ([row[kind]["num_macs"] for row in rows] for kind in ("bandwidth", "computation"))
    assert bandwidth[-1] == computation[-1]
    for row, macs in zip(rows, bandwidth, strict=True):
        assert macs == bandwidth[-1] - (48 - row["channels"]) * 288 * 96 * 96
    # An inner point-wise convolution shrinks quadratically (formula 1 of the paper).
    config = replace(config, widths=WIDTHS, configurable="computation")
    with torch.device("meta"):
        narrow: EfficientDet = sliced(EfficientDet(config), 0.5)  # type: ignore[assignment]
    assert narrow.backbone.blocks[2][1].conv_pw.weight.shape[:2] == (144, 24)
    assert computation[4] < 0.42 * bandwidth[4]


@pytest.mark.parametrize("kind", KINDS)
def test_what_travels_of_the_alternatives(kind: CompressorKind) -> None:
    counted = efficientdet_census(EfficientDetConfig(1, bottleneck=40, compressor=kind))
    side = 40 if kind == "units" else 80
    assert counted.row_of("bottleneck").shape == (40, side, side)
    assert counted.row_of("bottleneck").num_elements == prod((40, side, side))


def test_it_is_effdets_network_and_its_detections(teacher: EfficientDet) -> None:
    import effdet
    from effdet.anchors import Anchors, generate_detections
    from effdet.bench import _post_process

    settings = effdet.get_efficientdet_config("tf_efficientdet_d0")
    settings.image_size, settings.num_classes = SMALL, 5
    reference = effdet.EfficientDet(settings, pretrained_backbone=False)
    reference.load_state_dict(teacher.state_dict())
    x = torch.randn(1, 3, *SMALL)
    boxes = Anchors.from_config(settings).boxes
    torch.testing.assert_close(anchors(SMALL), boxes[:, [1, 0, 3, 2]])
    with torch.inference_mode():
        expected, actual = reference.eval()(x), teacher(x)
        for mine, theirs in zip(actual, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        classes, codes, indices, labels = _post_process(*expected, num_levels=5, num_classes=5)
        size = torch.tensor([100.0, 128.0])
        theirs = generate_detections(
            classes[0], codes[0], boxes, indices[0], labels[0], torch.ones(1), size, max_det_per_image=100
        )
        found, scores, names = detect(*actual, anchors(SMALL), 5, VALID)
    theirs = theirs[((theirs[:, 2:4] - theirs[:, :2]) >= 1e-2).all(dim=1)]
    num = min(len(scores), len(theirs))
    assert num > 20
    scores, found, names = scores[:num], found[:num], names[:num]
    torch.testing.assert_close(scores, theirs[:num, 4])
    torch.testing.assert_close(found, theirs[:num, :4], atol=1e-3, rtol=1e-4)
    assert torch.equal(names, theirs[:num, 5].long())


@pytest.mark.parametrize(
    "kind",
    ["none", "mbconv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "mbconv")],
)
@pytest.mark.parametrize("detector", EFFICIENTDETS)
def test_tail_of_head_is_the_whole_of_every_one(detector: str, kind: str) -> None:
    choices = {} if kind == "none" else {"bottleneck": 10, "compressor": kind}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = alive(EfficientDet(efficientdet_config(detector, {"size": SMALL, "num_classes": 5} | choices)))
    assert isinstance(model, EfficientDet)
    every = cuts_of(model.config)
    assert ("bottleneck" in every) == (kind != "none")
    with torch.inference_mode():
        whole = split(model, ())[0](pixels(), VALID)
        assert len(whole[1]) > 0
        for number in range(1, len(every) + 1):
            for cuts in combinations(every, number):
                x = pixels()
                for segment in split(model, cuts):
                    outputs = segment(x, VALID)
                    # As it comes off the wire: other memory, C order.
                    x = torch.from_numpy(outputs[0].numpy().copy())
                assert all(torch.equal(a, b) for a, b in zip(outputs, whole, strict=True)), cuts


@pytest.mark.parametrize("kind", KINDS)
def test_tail_of_head_is_the_whole_at_every_width(teacher: EfficientDet, kind: CompressorKind) -> None:
    config = replace(
        teacher.config, bottleneck=10, compressor=kind, widths=FEW, configurable="computation" if kind == "units" else "bandwidth"
    )  # fmt: skip
    student = alive(student_of(teacher, config))
    with torch.inference_mode():
        for width in FEW:
            set_width(student, width)
            whole = split(student, ())[0](pixels(), VALID)
            assert len(whole[1]) > 0
            fixed = split(sliced(student, width), ())[0](pixels(), VALID)
            assert all(torch.equal(a, b) for a, b in zip(whole, fixed, strict=True))
            for cuts in (*((cut,) for cut in cuts_of(config)), cuts_of(config)):
                x = pixels()
                for segment in split(student, cuts):
                    outputs = segment(x, VALID)
                    x = outputs[0].clone()
                assert all(torch.equal(a, b) for a, b in zip(outputs, whole, strict=True)), cuts


@pytest.mark.parametrize("configurable", ["bandwidth", "computation"])
def test_a_whole_head_at_every_width_is_the_fixed_one_sliced(teacher: EfficientDet, configurable: str) -> None:
    config = replace(teacher.config, bottleneck=40, widths=WIDTHS, configurable=configurable)
    student = alive(student_of(teacher, config))
    head = split(student, ("bottleneck",))[0]
    sizes = []
    with torch.inference_mode():
        for width in WIDTHS:
            set_width(student, width)
            fixed = split(sliced(student, width), ("bottleneck",))[0]
            assert not any(isinstance(each, SlimmableBatchNorm2d) for each in fixed.modules())
            wire = head(pixels(), VALID)
            assert all(torch.equal(a, b) for a, b in zip(wire, fixed(pixels(), VALID), strict=True))
            sizes.append(wire[0].shape[1])
    assert sizes == [round(40 * width) for width in WIDTHS]


def test_without_a_bottleneck_the_cut_is_p3(teacher: EfficientDet) -> None:
    assert cuts_of(teacher.config) == ("p3",)
    head, tail = split(teacher, ("p3",))
    assert head.output_names[0] == tail.input_name == "p3"
    with torch.inference_mode():
        whole = split(teacher, ())[0](pixels(), VALID)
        assert all(torch.equal(a, b) for a, b in zip(tail(head(pixels(), VALID)[0], VALID), whole, strict=True))
    names = [name for name, _ in teacher.named_parameters()]
    for name in names:
        assert sum(name.startswith(segment.prefixes) for segment in (head, tail)) == 1, name
    spec = preprocess_of(teacher.config)
    assert (spec.pixel_size, spec.pixel_dtype) == (SMALL, "uint8")


def test_a_student_begins_as_its_teacher(teacher: EfficientDet) -> None:
    config = replace(teacher.config, bottleneck=10, widths=FEW, configurable="computation", drop_path=0.0)
    student = student_of(teacher, config).eval()
    x = torch.randn(1, 3, *SMALL)
    with torch.inference_mode():
        torch.testing.assert_close(student.encode(x), teacher.encode(x))
    statistics = student.backbone.blocks[2][0].bn1.running_mean
    assert all(torch.equal(row, teacher.backbone.blocks[2][0].bn1.running_mean) for row in statistics)
    fresh = student_of(teacher, config, fresh_encoder=True)
    assert not torch.equal(fresh.backbone.conv_stem.weight, teacher.backbone.conv_stem.weight)
    assert not torch.equal(fresh.backbone.blocks[2][0].conv_pw.weight, teacher.backbone.blocks[2][0].conv_pw.weight)
    assert torch.equal(fresh.backbone.blocks[3][0].conv_pw.weight, teacher.backbone.blocks[3][0].conv_pw.weight)
    assert plain(config) == replace(teacher.config, drop_path=0.0)


def test_stochastic_depth_is_an_option() -> None:
    with torch.device("meta"):
        dropped, whole = (EfficientDet(EfficientDetConfig(0, drop_path=rate)) for rate in (0.2, 0.0))
    assert dropped.backbone.blocks[2][1].drop_path.drop_prob > 0
    assert isinstance(whole.backbone.blocks[2][1].drop_path, nn.Identity)


def test_weights_by_file(teacher: EfficientDet, tmp_path: Path) -> None:
    torch.save(teacher.state_dict(), tmp_path / "tf_efficientdet_d0_34-f153e0cf.pth")
    config = replace(teacher.config, bottleneck=10, widths=FEW)
    student = EfficientDet(config)
    assert "f153e0cf" in load_efficientdet(student, str(tmp_path / "tf_efficientdet_d0_34-f153e0cf.pth"))
    assert torch.equal(student.backbone.conv_stem.weight, teacher.backbone.conv_stem.weight)
    alive(student)
    save_weights(student, tmp_path / "own.safetensors")
    again = EfficientDet(config)
    load_efficientdet(again, str(tmp_path / "own.safetensors"))
    for name, value in student.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(again.state_dict()[name], value), name
    # What is refused is known before anything is copied.
    with torch.device("meta"):
        other = EfficientDet(EfficientDetConfig(0, size=SMALL))
        larger = EfficientDet(EfficientDetConfig(1, size=SMALL, num_classes=5))
        without = EfficientDet(teacher.config)
    published, own = (str(tmp_path / name) for name in ("tf_efficientdet_d0_34-f153e0cf.pth", "own.safetensors"))
    for model, file, words in (
        (other, published, "num_classes = 5"),
        (larger, published, "lacks"),
        (without, own, "beyond"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_efficientdet(model, file)


def test_what_cannot_be_is_refused() -> None:
    for choices, words in (
        ({"size": (640, 600)}, "multiples of 128"),
        ({"bottleneck": -1}, "give 0 for none"),
        ({"widths": (0.5, 1.0)}, "with a bottleneck"),
        ({"bottleneck": 12, "widths": (0.5,)}, "largest being 1"),
        ({"compressor": "zip"}, "mbconv, units, restorer"),
        ({"configurable": "power"}, "bandwidth or computation"),
        ({"num_classes": 0}, "at least 1"),
        ({"drop_path": 1.0}, "below 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            efficientdet_config("efficientdet-d1", choices)
    with pytest.raises(ConfigError, match="D0, D1 or D2"):
        EfficientDetConfig(7)
    with pytest.raises(ConfigError, match="choose among efficientdet-d0"):
        efficientdet_config("efficientdet-d9")


def test_inspect_shows_a_width(capsys: pytest.CaptureFixture[str]) -> None:
    inspect_verb("efficientdet-d2", "", 0, "", None, None, width=0.167, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == [768, 768]
    assert result["split"]["cut"] == "bottleneck"
    assert result["split"]["wire_bytes"]["uint8"] == 73_728
    assert result["split"]["head"]["num_macs"] == result["by_width"][0]["bandwidth"]["num_macs"]
    assert result["by_width"][-1]["bandwidth"]["num_published"] == 2_272_760_954 + 332_667_948
    inspect_verb("efficientdet-d1", "", 0, "", None, None, as_json=True)
    assert json.loads(capsys.readouterr().out)["split"]["cut"] == "p3"
    for split_at, width, words in (
        ("c5", None, "no split"),
        ("bottleneck", None, "--bottleneck"),
        ("", 1.5, "up to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            inspect_verb("efficientdet-d1", split_at, 0, "", None, None, width=width, as_json=True)


@pytest.mark.slow
def test_inspect_shows_every_width(capsys: pytest.CaptureFixture[str]) -> None:
    inspect_verb("efficientdet-d2", "", 0, "", None, None, width=0.167, as_json=True)
    result = json.loads(capsys.readouterr().out)
    inspect_verb("efficientdet-d2", "", 0, "", None, None, widths=True, as_json=True)
    rows = json.loads(capsys.readouterr().out)["widths"]
    assert [row["channels"] for row in rows] == [8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48]
    assert rows[0]["wire_bytes"] == {"fp16": 147_456, "uint8": 73_728, "uint4": 36_864}
    assert rows[0]["head"] == result["split"]["head"]
