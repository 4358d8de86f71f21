"""Our R-CNNs beside torchvision's own forward, in pieces and whole, and their published names."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from splitrail.models.detector import for_inference
from splitrail.models.golden import picture
from splitrail.models.names import RCNNS, model_config
from splitrail.models.rcnn import Rcnn
from splitrail.models.rcnn_config import RcnnConfig, RcnnKind
from splitrail.models.rcnn_cut import OUTPUTS, cuts_of, split
from splitrail.models.rcnn_init import random_rcnn
from splitrail.models.weights import load_weights
from splitrail.models.weights_error import WeightsError
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.detections import Detections
from splitrail.stages.rcnn_postprocess import RcnnOutputs, rcnn_detections

KINDS: tuple[RcnnKind, ...] = ("faster", "mask", "keypoint")
SMALL = {"width": 8, "fpn": 16, "box_head": 24, "short_side": 96, "max_long_side": 160}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(kind: RcnnKind, depth: int = 18, bottleneck: int = 0, finest_level: int = 2) -> Rcnn:
    overrides = SMALL | {"finest_level": finest_level}
    config = model_config(f"{kind}-rcnn-resnet{depth}", overrides, bottleneck=bottleneck)
    assert isinstance(config, RcnnConfig)
    rcnn = random_rcnn(config, depth)
    with torch.no_grad():
        rcnn.roi_heads.box_predictor.cls_score.bias[0] -= 2.0  # so that something is found in every picture
    return rcnn


def pixels_of(height: int, width: int, valid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    pixels = np.zeros((1, height, width, 3), np.float32)
    pixels[0, : valid[0], : valid[1]] = picture(valid, np.random.default_rng(seed))
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("detector", sorted(RCNNS))
@pytest.mark.parametrize("bottleneck", [0, 3])
def test_tail_of_head_is_the_whole_model_bit_for_bit(detector: str, bottleneck: int) -> None:
    kind, depth = detector.partition("-")[0], int(detector.rpartition("resnet")[2])
    rcnn = small(kind, depth, bottleneck)  # type: ignore[arg-type]
    with torch.no_grad():
        rcnn.roi_heads.box_predictor.cls_score.bias[0] = -10.0  # hardly any background: something is always found
    valid = torch.tensor([90, 128])
    pixels = pixels_of(96, 128, (90, 128))
    every = cuts_of(rcnn.config)
    assert every == (("l0", "bottleneck", "restored") if bottleneck else ("l0",))
    with torch.inference_mode():
        (whole,) = split(rcnn, (), None)
        expected = whole(pixels, valid)
        assert whole.output_names == OUTPUTS[rcnn.config.kind]
        assert len(expected[0]) > 0
        for number in range(1, len(every) + 1):
            for cuts in combinations(every, number):
                x = pixels
                for segment in split(rcnn, cuts, None):
                    outputs = segment(x, valid)
                    # As it comes off the wire: other memory, C order.
                    x = torch.from_numpy(outputs[0].numpy().copy())
                assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True)), cuts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bottleneck", "finest_level"), [(0, 2), (3, 2), (0, 3)])
def test_it_agrees_with_torchvisions_forward(kind: RcnnKind, bottleneck: int, finest_level: int) -> None:
    """The same weights and pixels: boxes, scores, labels, masks and keypoints, in the pixels of the source image."""
    rcnn = small(kind, bottleneck=bottleneck, finest_level=finest_level)
    # Short side 96, so torchvision does not resize; it pads 96x140 to 96x160.
    valid = (96, 140)
    pixels = pixels_of(96, 160, valid, seed=bottleneck)
    with torch.inference_mode():
        outputs = split(rcnn, (), None)[0](pixels, torch.tensor(valid))
        image = pixels[0, :, :140].permute(2, 0, 1) / 255
        reference = rcnn([image])[0]
    ours = rcnn_detections(RcnnOutputs.from_tensors(arrays(kind, outputs)), valid, valid, 0.0)
    assert len(ours) > 3
    assert_same(kind, ours, reference)


def assert_same(kind: RcnnKind, ours: Detections, reference: dict[str, torch.Tensor]) -> None:
    """Boxes, scores, labels, and masks or keypoints, of one image as torchvision gives them."""
    order = counterparts(ours, reference)
    if kind == "mask":
        theirs = reference["masks"][order, 0].numpy()
        assert ours.masks is not None
        for index in range(len(ours)):
            # A pixel may differ where torchvision's probability is at the threshold.
            clear = np.abs(theirs[index] - 0.5) > 1e-4
            assert (ours.masks.decode(index) == (theirs[index] > 0.5))[clear].all()
        assert sum(ours.masks.decode(index).sum() for index in range(len(ours))) > 0
    if kind == "keypoint":
        assert ours.keypoints is not None
        assert ours.keypoints.shape == (len(ours), 17, 3)
        np.testing.assert_allclose(ours.keypoints[:, :, 2], reference["keypoints_scores"][order].numpy(), atol=1e-3)
        near = np.abs(ours.keypoints[:, :, :2] - reference["keypoints"][order, :, :2].numpy()).max(axis=2) < 0.02
        # Two peaks of the same height may swap.
        assert near.mean() > 0.99


def counterparts(ours: Detections, reference: dict[str, torch.Tensor]) -> list[int]:
    """Which of torchvision's detections each of ours is; those of nearly the same score may come in another order."""
    boxes, scores, labels = (reference[name].numpy() for name in ("boxes", "scores", "labels"))
    assert len(scores) == len(ours)
    distance = np.abs(ours.boxes[:, None] - boxes).max(axis=2) + 1e3 * (ours.labels[:, None] != labels)
    order = distance.argmin(axis=1)
    assert sorted(order) == list(range(len(ours)))
    assert distance.min(axis=1).max() < 1e-2
    np.testing.assert_allclose(ours.scores, scores[order], atol=1e-4)
    return order.tolist()  # type: ignore[no-any-return]


def arrays(kind: RcnnKind, outputs: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in zip(OUTPUTS[kind], outputs, strict=True)}


def test_nothing_found_is_no_error() -> None:
    for kind in KINDS:
        rcnn = small(kind)
        with torch.no_grad():
            rcnn.roi_heads.box_predictor.cls_score.bias[0] = 100.0
            outputs = split(rcnn, (), None)[0](pixels_of(64, 64, (64, 64)), torch.tensor([64, 64]))
        assert [len(each) for each in outputs] == [0] * len(outputs)
        found = rcnn_detections(RcnnOutputs.from_tensors(arrays(kind, outputs)), (64, 64), (64, 64), 0.0)
        assert len(found) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_torchvisions_detectors(kind: RcnnKind) -> None:
    from torchvision.models import detection

    with torch.device("meta"):
        theirs = getattr(detection, f"{kind}rcnn_resnet50_fpn")(weights=None, weights_backbone=None).state_dict()
        ours = Rcnn(RCNNS[f"{kind}-rcnn-resnet50"]).state_dict()
    expected = {name: value.shape for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    assert {name: value.shape for name, value in ours.items()} == expected


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that torchvision's files have, which are those of its releases before 0.14."""
    old = {}
    for name, value in state.items():
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if name.startswith("backbone.fpn."):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
            name = name.replace("_blocks.weight", "_blocks.0.weight").replace("_blocks.bias", "_blocks.0.bias")
        if name.startswith("roi_heads.mask_head."):
            index, _, what = name.removeprefix("roi_heads.mask_head.").split(".")
            name = f"roi_heads.mask_head.mask_fcn{int(index) + 1}.{what}"
        old[name] = value
    return old


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_in_the_published_format_loads(kind: RcnnKind, tmp_path: Path) -> None:
    rcnn = small(kind)
    state = as_published(rcnn.state_dict())
    assert "rpn.head.conv.weight" in state
    assert "backbone.fpn.inner_blocks.0.weight" in state
    file = tmp_path / f"{kind}rcnn_resnet50_fpn_coco-0a1b2c3d.pth"
    torch.save(state, file)
    fresh = Rcnn(rcnn.config)
    loaded = load_weights(fresh, str(file), f"{kind}-rcnn-resnet18")
    assert loaded.source == file.name
    for name, value in rcnn.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    # Published weights were trained without an epsilon; others keep torch's.
    assert fresh.config.norm_eps == fresh.backbone.body.bn1.eps == 0
    assert for_inference(fresh).backbone.body.layer1[0].bn1.eps == 0  # type: ignore[union-attr,index]
    file.rename(tmp_path / "mine.pth")
    load_weights(fresh := Rcnn(rcnn.config), str(tmp_path / "mine.pth"), "")
    assert fresh.config.norm_eps == 1e-5


def test_weights_of_another_detector_are_refused(tmp_path: Path) -> None:
    rcnn = small("faster")
    torch.save(rcnn.state_dict(), tmp_path / "w.pth")
    other = Rcnn(model_config("faster-rcnn-resnet18", SMALL | {"num_classes": 5}))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="num_classes = 91"):
        load_weights(other, str(tmp_path / "w.pth"), "")
    student = Rcnn(model_config("faster-rcnn-resnet18", SMALL, bottleneck=3))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="layer1"):
        load_weights(student, str(tmp_path / "w.pth"), "")
    with pytest.raises(WeightsError, match="nobody published"):
        load_weights(rcnn, "hub", "faster-rcnn-resnet18")


@pytest.mark.parametrize("depth", [18, 50])
def test_the_resnet_is_torchvisions(depth: int) -> None:
    """With the names of its state, so that official classifiers' weights fit, too."""
    from torchvision.models import resnet
    from torchvision.ops import FrozenBatchNorm2d

    from splitrail.models.resnet import ResNet

    theirs = getattr(resnet, f"resnet{depth}")(weights=None, norm_layer=FrozenBatchNorm2d).eval()
    ours = ResNet(depth).eval()
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        torch.testing.assert_close(ours.stem(x), y)
        for number, c in enumerate(ours.stages(x), 1):
            y = getattr(theirs, f"layer{number}")(y)
            torch.testing.assert_close(c, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))


def torchvisions(kind: RcnnKind, config: RcnnConfig) -> torch.nn.Module:
    """Such a detector of torchvision's own modules alone, its ResNet and pyramid included."""
    from torchvision.models import detection, resnet
    from torchvision.models.detection import faster_rcnn, keypoint_rcnn, mask_rcnn
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    sides = {"min_size": SMALL["short_side"], "max_size": SMALL["max_long_side"]}
    if config.fpn == 256:
        # As published. Without weights its normalisation is a live one; the epsilon is the same.
        name = f"{kind}rcnn_resnet{config.depth}_fpn"
        return getattr(detection, name)(weights=None, weights_backbone=None, **sides).eval()  # type: ignore[no-any-return]
    body = getattr(resnet, f"resnet{config.depth}")(weights=None)
    layers = {f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(body, layers, [64, 128, 256, 512], config.fpn)
    sides |= {
        "box_head": faster_rcnn.TwoMLPHead(config.fpn * 49, config.box_head),
        "box_predictor": faster_rcnn.FastRCNNPredictor(config.box_head, config.num_classes),
    }
    if kind == "faster":
        return detection.FasterRCNN(backbone, **sides).eval()  # type: ignore[no-any-return]
    if kind == "mask":
        head = mask_rcnn.MaskRCNNHeads(config.fpn, (config.fpn,) * 4, 1)
        predictor = mask_rcnn.MaskRCNNPredictor(config.fpn, config.fpn, config.num_classes)
        return detection.MaskRCNN(backbone, mask_head=head, mask_predictor=predictor, **sides).eval()  # type: ignore[no-any-return]
    head = keypoint_rcnn.KeypointRCNNHeads(config.fpn, (2 * config.fpn,) * 8)
    predictor = keypoint_rcnn.KeypointRCNNPredictor(2 * config.fpn, config.num_keypoints)
    return detection.KeypointRCNN(  # type: ignore[no-any-return]
        backbone, num_keypoints=None, keypoint_head=head, keypoint_predictor=predictor, **sides
    ).eval()


@pytest.mark.parametrize(
    ("detector", "narrow"),
    [
        ("resnet18", {"fpn": 16, "box_head": 24}),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
    ],
    ids=["narrow-resnet18", "resnet50"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_detector_of_torchvision_is_ours(
    kind: RcnnKind, detector: str, narrow: dict[str, int], tmp_path: Path
) -> None:
    """Built by torchvision, saved, loaded into ours, and run on the same pixels."""
    config = model_config(f"{kind}-rcnn-{detector}", narrow)
    assert isinstance(config, RcnnConfig)
    source = random_rcnn(config, 1)
    with torch.no_grad():
        source.roi_heads.box_predictor.cls_score.bias[0] = -10.0  # hardly any background: something is always found
    theirs = torchvisions(kind, config)
    lacking = theirs.load_state_dict(source.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert all(name.endswith("num_batches_tracked") or ".fc." in name for name in lacking.missing_keys)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = Rcnn(config).eval()
    load_weights(ours, str(tmp_path / "w.pth"), "")
    pixels = pixels_of(96, 128, (96, 128), seed=2)
    with torch.inference_mode():
        outputs = split(ours, (), None)[0](pixels, torch.tensor([96, 128]))
        reference = theirs([pixels[0].permute(2, 0, 1) / 255])[0]
    found = rcnn_detections(RcnnOutputs.from_tensors(arrays(kind, outputs)), (96, 128), (96, 128), 0.0)
    assert len(found) > 3
    assert_same(kind, found, reference)


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="faster, mask or keypoint"):
        RcnnConfig(kind="cascade")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_classes"):
        RcnnConfig(num_classes=0)
    with pytest.raises(ConfigError, match="cannot begin at level 4"):
        RcnnConfig(finest_level=4)
