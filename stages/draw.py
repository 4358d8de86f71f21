"""Detections drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from .detections import Detections
from .image import Image

_Colour = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design" (2008): told apart with any colour vision. BGR.
_PALETTE: tuple[_Colour, ...] = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (0, 94, 213),
    (167, 121, 204),
    (178, 114, 0),
)
_DARK: _Colour = (20, 20, 20)
_LIGHT: _Colour = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MIN_UNIT = 0.6
_READABLE_SIDE = 540
"""Lines and text have their normal size on an image with a short side of this many pixels."""
_MASK_SHARE = 0.45
"""Of a mask's colour in what is drawn."""
_NUM_COCO_KEYPOINTS = 17
_COCO_LIMBS = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
"""Pairs of COCO's 17 keypoints of a person that are joined (the categories' "skeleton", counted from 0)."""


def draw_detections(image: Image, detections: Detections, classes: Sequence[str]) -> None:
    """Draw boxes and labels, and masks and keypoints where there are any, into `image`, uint8 [H, W, 3] BGR: a colour per
    class, the best detection on top. Seventeen keypoints are joined to a person."""
    unit = _unit(image)
    line = max(1, round(2 * unit))
    for index in reversed(range(len(detections))):
        if detections.masks is not None:
            _shade(image, detections.masks.decode(index), _colour(int(detections.labels[index])))
    rows = list(zip(detections.boxes, detections.scores, detections.labels, strict=True))[::-1]
    for box, _, label in rows:
        left, top, right, bottom = (round(float(value)) for value in box)
        # A dark rim keeps the box visible on ground of its own colour.
        cv2.rectangle(image, (left, top), (right, bottom), _DARK, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (left, top), (right, bottom), _colour(int(label)), line, cv2.LINE_AA)
    if detections.keypoints is not None:
        for points in detections.keypoints[::-1]:
            _draw_keypoints(image, points, line)
    for box, score, label in rows:
        name = classes[int(label)] if 0 <= int(label) < len(classes) else str(int(label))
        left, top = round(float(box[0])), round(float(box[1]))
        _text(image, f"{name} {float(score):.2f}", (left - line // 2, top), _colour(int(label)))


def _shade(image: Image, mask: npt.NDArray[np.bool_], colour: _Colour) -> None:
    if mask.shape == image.shape[:2]:
        pixels = image[mask].astype(np.float32)
        image[mask] = np.rint(pixels * (1 - _MASK_SHARE) + np.array(colour, np.float32) * _MASK_SHARE).astype(np.uint8)


def _draw_keypoints(image: Image, points: npt.NDArray[np.float32], line: int) -> None:
    """`points` [K, 3]."""
    at = [(round(float(x)), round(float(y))) for x, y, _ in points]
    if len(at) == _NUM_COCO_KEYPOINTS:
        for begin, end in _COCO_LIMBS:
            cv2.line(image, at[begin], at[end], _DARK, line + 2, cv2.LINE_AA)
            cv2.line(image, at[begin], at[end], _LIGHT, line, cv2.LINE_AA)
    for number, point in enumerate(at):
        cv2.circle(image, point, line + 2, _DARK, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(image, point, line + 1, _colour(number), cv2.FILLED, cv2.LINE_AA)


def draw_caption(image: Image, text: str) -> None:
    """Write one line into the lower left corner of `image`, uint8 [H, W, 3] BGR."""
    margin = round(8 * _unit(image))
    _text(image, text, (margin, image.shape[0] - margin), _DARK)


def _text(image: Image, text: str, corner: tuple[int, int], ground: _Colour) -> None:
    """Text on its ground, standing on `corner` (its lower left), moved so that it stays inside the image."""
    unit = _unit(image)
    height, width = image.shape[:2]
    # Hershey fonts have no other letters; OpenCV would draw one question mark per byte.
    text = text.encode("ascii", "replace").decode()
    scale, weight, pad = 0.5 * unit, max(1, round(1.2 * unit)), max(1, round(3 * unit))
    (text_width, text_height), base = cv2.getTextSize(text, _FONT, scale, weight)
    while text_width + 2 * pad > width and len(text) > 4:
        text = text[:-4] + "..."
        (text_width, text_height), base = cv2.getTextSize(text, _FONT, scale, weight)
    box_width, box_height = text_width + 2 * pad, text_height + base + pad
    left = max(0, min(corner[0], width - box_width))
    top = max(0, min(corner[1] - box_height, height - box_height))
    cv2.rectangle(image, (left, top), (left + box_width, top + box_height), ground, cv2.FILLED)
    origin = (left + pad, top + pad // 2 + text_height)
    cv2.putText(image, text, origin, _FONT, scale, _ink(ground), weight, cv2.LINE_AA)


def _unit(image: Image) -> float:
    height, width = image.shape[:2]
    return max(_MIN_UNIT, float(min(height, width)) / _READABLE_SIDE)


def _colour(label: int) -> _Colour:
    return _PALETTE[label % len(_PALETTE)]


def _ink(ground: _Colour) -> _Colour:
    """Black or white, whichever contrasts more (luma of ITU-R BT.601)."""
    blue, green, red = ground
    return _DARK if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else _LIGHT
