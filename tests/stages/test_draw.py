"""Detections drawn on an image."""

from __future__ import annotations

import numpy as np
import pytest

from splitrail.stages.detections import Detections
from splitrail.stages.draw import draw_caption, draw_detections


def one(box: list[float], label: int = 0, score: float = 0.9) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([label], np.int32))


def ground(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def changed(image: np.ndarray) -> np.ndarray:
    return (image != 128).any(axis=2)


def test_the_box_is_drawn_where_it_is_and_nowhere_else() -> None:
    image = ground()
    draw_detections(image, one([100, 80, 200, 160]), ["thing"])
    drawn = changed(image)
    for row, column in [(80, 150), (160, 150), (120, 100), (120, 200)]:
        assert drawn[row, column]
    assert not drawn[90:150, 110:190].any()
    assert not drawn[:50].any()
    assert not drawn[170:].any()


def test_classes_have_colours_of_their_own() -> None:
    colours = set()
    for label in range(7):
        image = ground()
        draw_detections(image, one([100, 80, 200, 160], label), [str(n) for n in range(7)])
        colours.add(tuple(image[120, 100].tolist()))
    assert len(colours) == 7


@pytest.mark.parametrize("size", [(48, 64), (240, 320), (1080, 1920)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.95, 0.95)])
def test_the_label_stays_inside(size: tuple[int, int], corner: tuple[float, float]) -> None:
    height, width = size
    left, top = corner[0] * width, corner[1] * height
    framed = np.full((height + 40, width + 40, 3), 128, np.uint8)
    image = np.ascontiguousarray(framed[20:-20, 20:-20])
    box = one([left, top, min(width, left + width / 8), min(height, top + height / 8)])
    plain = image.copy()
    draw_detections(plain, Detections(box.boxes, box.scores, box.labels), [""])
    draw_detections(image, box, ["wheelbarrow"])
    # A longer name covers more, on whichever side there is room.
    assert changed(image).sum() > changed(plain).sum()


def test_the_best_detection_is_on_top() -> None:
    both = Detections(
        np.array([[50, 60, 150, 160]] * 2, np.float32), np.array([0.9, 0.4], np.float32), np.array([0, 1], np.int32)
    )
    image, best = ground(), ground()
    draw_detections(image, both, ["a", "a"])
    draw_detections(best, one([50, 60, 150, 160]), ["a", "a"])
    assert np.array_equal(image[120, 50], best[120, 50])


def test_any_label_and_any_name_can_be_drawn() -> None:
    image = ground()
    draw_detections(image, one([10, 40, 60, 90], label=99), ["Fußgänger 行人"])
    draw_detections(image, one([10, 140, 60, 190], label=0), ["Fußgänger 行人" * 30])
    draw_detections(image, Detections.none(), [])
    draw_detections(image, one([-1e6, -50, 1e6, 9000]), ["huge"])
    assert changed(image).any()


def test_a_caption_is_one_line_in_the_lower_left() -> None:
    image = ground()
    draw_caption(image, "frame 3 failed: " + "the reason is long " * 20)
    drawn = changed(image)
    assert drawn[-30:].any()
    assert not drawn[:-40].any()
    assert drawn[:, :40].any()
