"""Mask and positions against the reference's own operations: nearest shrinking of the mask, cumulated sums."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from splitrail.models.position import MASKED, cells_of, valid_pixels


def reference(mask: torch.Tensor, cells: tuple[int, int], d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The published code's mask and sine positions; `mask` bool [H, W], true where the image is."""
    shrunk = F.interpolate(mask[None, None].float(), size=cells)[0].to(torch.bool)
    y, x = shrunk.float().cumsum(1), shrunk.float().cumsum(2)
    y = y / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = x / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    index = torch.arange(d // 2)
    period = 10_000 ** (2 * (index // 2) / (d // 2))
    parts = []
    for angle in (y[..., None] / period, x[..., None] / period):
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
    return shrunk[0].flatten(), torch.cat(parts, dim=3).flatten(1, 2)[0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_fixed_size_equals_the_reference(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(32, 1400)), data.draw(st.integers(32, 1400))
    valid = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    stride = data.draw(st.sampled_from((16, 32)))
    cells = (-(-height // stride), -(-width // stride))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[: valid[0], : valid[1]] = True
    shrunk, positions = reference(mask, cells, 32)
    ours = cells_of(torch.tensor([valid]), cells, (height, width), 32, stride)
    assert torch.equal(ours.mask[0, 0, 0] == 0, shrunk)
    assert torch.equal(ours.mask[0, 0, 0] == MASKED, ~shrunk)
    torch.testing.assert_close(ours.positions[0][shrunk], positions[shrunk], rtol=0, atol=2e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(32, 1400), st.integers(32, 1400), st.sampled_from((16, 32)))
def test_without_padding_dynamic_equals_fixed(height: int, width: int, stride: int) -> None:
    cells = (-(-height // stride), -(-width // stride))
    valid_size = torch.tensor([(height, width)])
    fixed = cells_of(valid_size, cells, (height, width), 16, stride)
    dynamic = cells_of(valid_size, cells, None, 16, stride)
    assert torch.equal(fixed.mask, dynamic.mask)
    assert not fixed.mask.any()
    assert torch.equal(fixed.positions, dynamic.positions)


def test_a_batch_keeps_its_images_apart() -> None:
    sizes = torch.tensor([(100, 64), (37, 128)])
    both = cells_of(sizes, (4, 4), (128, 128), 16, 32)
    for index in range(2):
        alone = cells_of(sizes[index : index + 1], (4, 4), (128, 128), 16, 32)
        assert torch.equal(both.mask[index], alone.mask[0])
        assert torch.equal(both.positions[index], alone.positions[0])


def test_valid_pixels_are_the_top_left() -> None:
    valid = valid_pixels(torch.tensor([(3, 2)]), (4, 5))
    assert valid.shape == (1, 1, 4, 5)
    assert valid[0, 0, :3, :2].all()
    assert int(valid.sum()) == 6
