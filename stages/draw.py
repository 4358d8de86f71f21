"""Detections drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

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


def draw_detections(image: Image, detections: Detections, classes: Sequence[str]) -> None:
    """Draw boxes and labels into `image`, uint8 [H, W, 3] BGR: a colour per class, the best detection on top."""
    unit = _unit(image)
    line = max(1, round(2 * unit))
    rows = list(zip(detections.boxes, detections.scores, detections.labels, strict=True))[::-1]
    for box, _, label in rows:
        left, top, right, bottom = (round(float(value)) for value in box)
        # A dark rim keeps the box visible on ground of its own colour.
        cv2.rectangle(image, (left, top), (right, bottom), _DARK, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (left, top), (right, bottom), _colour(int(label)), line, cv2.LINE_AA)
    for box, score, label in rows:
        name = classes[int(label)] if 0 <= int(label) < len(classes) else str(int(label))
        left, top = round(float(box[0])), round(float(box[1]))
        _text(image, f"{name} {float(score):.2f}", (left - line // 2, top), _colour(int(label)))


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
