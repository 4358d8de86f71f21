"""Places objects for one picture that stands alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .classes import CLASSES
from .frame import MAX_SIZE, MIN_SIZE
from .layer import DISTRACTOR, Item
from .sprites import NUM_DISTRACTOR_SPRITES, NUM_SPRITES, Sprite, distractor_sprite, object_sprite
from .tones import Split

NUM_OBJECTS_WEIGHTS = (0.22, 0.22, 0.18, 0.14, 0.10, 0.07, 0.04, 0.03)
"""How often a picture that is not empty is meant to have 1, 2, ... 8 objects, before too hidden ones are left out."""
SIZE_BANDS = ((0.05, 0.058, 0.12), (0.27, 0.12, 0.25), (0.68, 0.25, 0.59))
"""Share of the objects, and from which to which size, uniform in the logarithm."""


def random_size(rng: np.random.Generator) -> float:
    """A whole object's longer side over the picture's short side, by `SIZE_BANDS`."""
    pick = float(rng.random())
    bounds = np.cumsum([share for share, _, _ in SIZE_BANDS])
    _, low, high = SIZE_BANDS[min(int(np.searchsorted(bounds, pick, side="right")), len(SIZE_BANDS) - 1)]
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_object(rng: np.random.Generator, split: Split, side: int, label: int | None = None) -> tuple[Sprite, int]:
    """A photograph of an object of the class, or of any class, and its label."""
    label = int(rng.integers(0, len(CLASSES))) if label is None else label
    return object_sprite(split, label, int(rng.integers(0, NUM_SPRITES[split])), side), label


def random_distractor(rng: np.random.Generator, split: Split, side: int) -> Sprite:
    """A photograph of a distractor."""
    return distractor_sprite(split, int(rng.integers(0, NUM_DISTRACTOR_SPRITES[split])), side)


def random_angle(rng: np.random.Generator, sprite: Sprite) -> float:
    """Radians; what stands leans at most by the camera's 12 degrees, what lies may lie in any direction."""
    return float(np.clip(rng.normal(0, 0.09), -0.21, 0.21) if sprite.upright else rng.uniform(0, 2 * np.pi))


@dataclass(frozen=True, slots=True)
class Paintwork:
    """Another colour for the same solid."""

    tint: tuple[float, float, float]
    order: tuple[int, int, int]


def random_paintwork(rng: np.random.Generator) -> Paintwork:
    """Channels exchanged and scaled."""
    blue, green, red = rng.uniform(0.75, 1.2, 3).tolist()
    first, second, third = rng.permutation(3).tolist()
    return Paintwork((blue, green, red), (first, second, third))


def place_still(
    rng: np.random.Generator, split: Split, size: tuple[int, int], side: int, num_objects: int, num_distractors: int
) -> list[Item]:
    """Items for a still, nearest last. The nearest object is wholly inside, hence always in the truth."""
    short = min(size)
    placed: list[tuple[float, Item]] = []
    taken: list[tuple[float, float, float, float]] = []
    for index in range(num_objects + num_distractors):
        is_object = index < num_objects
        if is_object:
            sprite, label = random_object(rng, split, side)
        else:
            sprite, label = random_distractor(rng, split, side), DISTRACTOR
        angle = random_angle(rng, sprite)
        width, height = sprite.extent(angle)
        share = random_size(rng) if is_object else float(np.exp(rng.uniform(np.log(0.05), np.log(0.35))))
        share *= 1 - 0.04 * num_objects if share > 0.3 else 1
        share = float(np.clip(share, MIN_SIZE * 1.15, MAX_SIZE * 0.985))
        scale = share * short / max(width, height)
        paintwork = random_paintwork(rng)
        half = (width * scale / 2, height * scale / 2)
        first = index == 0
        x, y = _spot(rng, size, half, taken, inside=first)
        taken.append((x, y, *half))
        motion = (0.0, 0.0)
        if rng.random() < 0.2:
            turn, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.1) * share * short
            motion = (float(np.cos(turn) * length), float(np.sin(turn) * length))
        item = Item(sprite, label, index, x, y, scale, angle, paintwork.tint, paintwork.order, motion)
        nearness = y + half[1] + float(rng.normal(0, 0.12 * size[0]))
        placed.append((nearness + (4 * size[0] if first else 0), item))
    placed.sort(key=lambda entry: entry[0])
    return [item for _, item in placed]


def _spot(
    rng: np.random.Generator,
    size: tuple[int, int],
    half: tuple[float, float],
    taken: list[tuple[float, float, float, float]],
    *,
    inside: bool,
) -> tuple[float, float]:
    """Of a few spots the first that overlaps the others little enough, or the one that does least."""
    margin = 1.06 if inside else 0.35
    allowed = float(rng.random())
    best, least = (size[1] / 2, size[0] / 2), np.inf
    for _ in range(4):
        x = float(rng.uniform(min(margin * half[0], size[1] / 2), max(size[1] - margin * half[0], size[1] / 2)))
        y = float(rng.uniform(min(margin * half[1], size[0] / 2), max(size[0] - margin * half[1], size[0] / 2)))
        worst = 0.0
        for other_x, other_y, other_half_width, other_half_height in taken:
            across = min(x + half[0], other_x + other_half_width) - max(x - half[0], other_x - other_half_width)
            down = min(y + half[1], other_y + other_half_height) - max(y - half[1], other_y - other_half_height)
            if across > 0 and down > 0:
                worst = max(worst, across * down / (4 * min(half[0] * half[1], other_half_width * other_half_height)))
        if worst < least:
            best, least = (x, y), worst
        if worst <= allowed:
            break
    return best
