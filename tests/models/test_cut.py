from itertools import combinations

import pytest
import torch

from splitrail.models.cut import CUTS, WIRE_TENSOR, Segment, split
from splitrail.models.detr import Detr
from splitrail.models.names import DETECTORS, config_of
from splitrail.models.random_init import random_detr
from splitrail.pipeline.errors import ConfigError

EVERY_CHOICE = [cuts for number in range(1, 4) for cuts in combinations(CUTS, number)]
SIZES = [((128, 96), (128, 96)), ((97, 161), (97, 161)), ((96, 160), (71, 160)), ((130, 90), (130, 33))]
SMALL = {
    "width": 8,
    "num_classes": 4,
    "num_queries": 7,
    "d_model": 32,
    "heads": 4,
    "ffn": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
}


@pytest.fixture(scope="module", params=DETECTORS)
def detr(request: pytest.FixtureRequest) -> Detr:
    torch.set_num_threads(1)
    return random_detr(config_of(request.param, SMALL), 0)


def chain(segments: list[Segment], pixels: torch.Tensor, valid_size: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = pixels
    for segment in segments:
        with torch.inference_mode():
            outputs = segment(x, valid_size)
        # As it comes off the wire: other memory, C order.
        x = outputs[0].numpy().copy()
        x = torch.from_numpy(x)
    return outputs


@pytest.mark.parametrize(("size", "valid"), SIZES)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
def test_tail_of_head_is_the_whole_model_bit_for_bit(
    detr: Detr, size: tuple[int, int], valid: tuple[int, int], fixed: bool
) -> None:
    pixels = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixel_size = size if fixed else None
    expected = chain(split(detr, (), pixel_size), pixels, torch.tensor(valid))
    for cuts in EVERY_CHOICE:
        actual = chain(split(detr, cuts, pixel_size), pixels, torch.tensor(valid))
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b), cuts


@pytest.mark.parametrize(
    ("cuts", "names"),
    [
        ((), ["detector"]),
        (("c5",), ["backbone", "transformer"]),
        (("projection",), ["backbone", "transformer"]),
        (("memory",), ["backbone_encoder", "decoder"]),
        (("c5", "projection"), ["backbone", "projection", "transformer"]),
        (("c5", "memory"), ["backbone", "encoder", "decoder"]),
        (("projection", "memory"), ["backbone", "encoder", "decoder"]),
        (("c5", "projection", "memory"), ["backbone", "projection", "encoder", "decoder"]),
    ],
)
def test_segments_have_names_and_tensors(detr: Detr, cuts: tuple[str, ...], names: list[str]) -> None:
    segments = split(detr, cuts, (64, 64))
    assert [segment.name for segment in segments] == names
    assert [segment.input_name for segment in segments] == ["pixels", *(WIRE_TENSOR[cut] for cut in cuts)]
    assert [segment.wire_name for segment in segments] == [*(WIRE_TENSOR[cut] for cut in cuts), None]


def test_outputs_are_named_as_the_bundle_says(detr: Detr) -> None:
    head, tail = split(detr, ("projection",), (64, 64))
    suffixes = ["", "_fp16", "_uint8", "_scale", "_zero_point"]
    assert list(head.output_names) == [f"features{suffix}" for suffix in suffixes]
    assert tail.output_names == tail.fp32_names == ("pred_logits", "pred_boxes")


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        (("c4",), "no cut 'c4'"),
        (("memory", "projection"), "in the order"),
        (("c5", "c5"), "once"),
    ],
)
def test_impossible_cuts_are_refused(detr: Detr, cuts: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        split(detr, cuts, None)
