"""The classes of the generated scenes and their keypoints."""

from __future__ import annotations

CLASSES: tuple[str, ...] = ("mug", "bottle", "ball", "crate", "cone", "star", "book", "wrench")
"""Name by label. In COCO-format files the category id is the label."""

KEYPOINTS: dict[str, tuple[str, ...]] = {
    "mug": ("rim_at_handle", "rim_opposite", "base_at_handle", "base_opposite", "handle"),
    "bottle": ("cap", "neck", "shoulder", "belly", "base"),
    "ball": ("centre", "top", "right", "bottom", "left"),
    "crate": ("lid_front_left", "lid_front_right", "lid_back_right", "lid_back_left", "label"),
    "cone": ("tip", "foot_1", "foot_2", "foot_3", "foot_4"),
    "star": ("tip_with_stud", "tip_2", "tip_3", "tip_4", "tip_5"),
    "book": ("top_left", "top_right", "bottom_right", "bottom_left", "spine"),
    "wrench": ("jaw_left", "jaw_right", "throat", "shaft", "ring"),
}
"""Five per class. Those of the ball are the centre and the extremes of its outline in the picture."""

NUM_KEYPOINTS = 5

SKELETONS: dict[str, tuple[tuple[int, int], ...]] = {
    "mug": ((1, 2), (2, 4), (4, 3), (3, 1), (1, 5), (5, 3)),
    "bottle": ((1, 2), (2, 3), (3, 4), (4, 5)),
    "ball": ((1, 2), (1, 3), (1, 4), (1, 5)),
    "crate": ((1, 2), (2, 3), (3, 4), (4, 1)),
    "cone": ((1, 2), (1, 3), (1, 4), (1, 5)),
    "star": ((1, 2), (2, 3), (3, 4), (4, 5), (5, 1)),
    "book": ((1, 2), (2, 3), (3, 4), (4, 1)),
    "wrench": ((1, 3), (2, 3), (3, 4), (4, 5)),
}
"""Pairs of keypoints to draw a line between, counted from 1 as in COCO."""

STANDING: frozenset[str] = frozenset({"mug", "bottle", "crate", "cone"})
"""Classes that stand upright on the ground; the others lie on it at any angle."""
