"""Run lengths of masks beside COCO's own code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from splitrail.stages.masks import Masks, encode_mask


def whole(part: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    image = np.zeros(size, np.bool_)
    image[corner[0] : corner[0] + part.shape[0], corner[1] : corner[1] + part.shape[1]] = part
    return image


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 5), st.floats(0, 1), st.integers(0, 99)
)
def test_it_is_what_coco_writes_and_reads(
    height: int, width: int, top: int, left: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    part = rng.random((height, width)) < density
    size = (height + top + seed % 3, width + left + seed % 2)
    counts = encode_mask(part, (top, left), size)
    image = whole(part, (top, left), size)
    assert counts == coco.encode(np.asfortranarray(image.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(Masks(size, (counts,)).decode(0), image)


def test_long_runs_take_several_characters() -> None:
    part = np.zeros((700, 1200), np.bool_)
    part[3:690, 5:1100] = True
    counts = encode_mask(part, (10, 20), (1080, 1920))
    assert counts == coco.encode(np.asfortranarray(whole(part, (10, 20), (1080, 1920)).astype(np.uint8)))["counts"]


@pytest.mark.parametrize("num", [0, 1, 4])
def test_they_cross_ranks_as_tensors(num: int) -> None:
    rng = np.random.default_rng(num)
    masks = Masks((30, 20), tuple(encode_mask(rng.random((9, 8)) < 0.5, (2, 3), (30, 20)) for _ in range(num)))
    assert Masks.from_tensors(masks.to_tensors()) == masks
    assert len(masks) == num
    assert masks.subset(np.arange(num)[::-1]).counts == masks.counts[::-1]
