"""Masks from COCO's three spellings, and what is none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from splitrail.bench.accuracy import AccuracyError
from splitrail.bench.coco_shapes import masks_of_annotations

SIZE = (6, 8)
SQUARE = np.zeros(SIZE, bool)
SQUARE[1:4, 2:5] = True
RUNS = [13, 3, 3, 3, 3, 3, 20]
"""Of the square, down the columns."""


def masks_of(*segmentations: Any) -> Any:
    return masks_of_annotations([{"id": 7, "segmentation": each} for each in segmentations], SIZE)


def test_polygons_and_run_lengths_give_the_same_mask() -> None:
    uncompressed = {"size": list(SIZE), "counts": RUNS}
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    masks = masks_of(polygon, uncompressed)
    compressed = masks_of(masks.to_json(1))
    for mask in (masks.decode(0), masks.decode(1), compressed.decode(0)):
        np.testing.assert_array_equal(mask, SQUARE)


def test_an_annotation_without_one_leaves_the_image_without_masks() -> None:
    assert masks_of([[2, 1, 5, 1, 5, 4]], None) is None
    assert masks_of([[2, 1, 5, 1, 5, 4]], []) is None


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ({"size": list(SIZE)}, "KeyError: 'counts'"),
        ({"counts": RUNS}, "KeyError: 'size'"),
        ({"size": [8, 6], "counts": RUNS}, r"its size is \[8, 6\]"),
        ({"size": list(SIZE), "counts": 5}, "TypeError"),
        ("squiggle", "TypeError"),
        ([3, 4], "Error|Exception"),
    ],
)
def test_anything_else_is_named_with_its_annotation(segmentation: Any, text: str) -> None:
    with pytest.raises(
        AccuracyError, match=rf"annotation 7 has a segmentation that is neither .* image of 6x8 \(.*{text}"
    ):
        masks_of(segmentation)
