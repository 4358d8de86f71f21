"""Procedural grounds: what the camera sees behind and between the solids.

A ground is made from a seed that holds its split, so no ground of the test split is ever seen in training; some kinds
occur in the test split only (`GROUNDS_HELD_OUT`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from .clutter import scatter_clutter
from .tones import SPLIT_SEED, Image, Plane, Split, mix, noise, random_colour

NUM_GROUNDS: dict[str, int] = {"train": 48, "test": 16}
GROUND_SIZE = 640
"""Side of a ground texture, pixels; about 256 of them are seen across the short side of a frame."""


def _two_tones(rng: np.random.Generator, saturation: float, contrast: float) -> tuple[Plane, Plane]:
    """Two neighbouring tones for a ground; grounds are more often of earth's colours than of any other."""
    hue = float(rng.normal(32, 12) if rng.random() < 0.65 else rng.uniform(0, 360)) % 360
    hsv = np.array([[[hue, rng.uniform(0, saturation), rng.uniform(0.3, 0.85)]]], np.float32)
    base = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0], np.float32)
    other = base * rng.uniform(1 - contrast, 1 - contrast / 3) + rng.uniform(-0.04, 0.04, 3)
    return base, np.asarray(np.clip(other, 0.03, 1), np.float32)


def _wood(rng: np.random.Generator) -> Plane:
    size = GROUND_SIZE
    plank = int(rng.integers(50, 150))
    row = np.arange(size, dtype=np.float32)[:, None]
    index = (row // plank).astype(np.int32).ravel()
    drift = rng.uniform(-3, 3, size // plank + 1).astype(np.float32)[index][:, None]
    grain = np.sin(row / rng.uniform(3, 9) + 1.6 * noise(rng, size, 90, 3, 5.0) + drift * 4)
    field = 0.5 + 0.2 * grain + 0.14 * noise(rng, size, 6, 2, 14.0) + 0.12 * drift / 3
    image = mix(field.astype(np.float32), *_two_tones(rng, 0.65, 0.6))
    gap = (row.ravel().astype(np.int32) % plank) < rng.integers(1, 3)
    image[gap] *= 0.35
    return image


def _concrete(rng: np.random.Generator) -> Plane:
    field = 0.5 + 0.2 * noise(rng, GROUND_SIZE, 200, 6) + 0.10 * noise(rng, GROUND_SIZE, 3, 1)
    image = mix(field.astype(np.float32), *_two_tones(rng, 0.2, 0.5))
    image[noise(rng, GROUND_SIZE, 5, 2) > 2.4] *= 0.6
    return image


def _fabric(rng: np.random.Generator) -> Plane:
    pitch = rng.uniform(3.0, 8.0)
    row, column = np.mgrid[0:GROUND_SIZE, 0:GROUND_SIZE].astype(np.float32)
    bend = 2.0 * noise(rng, GROUND_SIZE, 120, 2)
    weave = np.sin(2 * np.pi * (column + bend) / pitch) * np.sin(2 * np.pi * (row + bend) / pitch)
    field = 0.5 + 0.22 * weave + 0.16 * noise(rng, GROUND_SIZE, 160, 3) + 0.06 * noise(rng, GROUND_SIZE, 3, 1)
    image = mix(field.astype(np.float32), *_two_tones(rng, 0.8, 0.6))
    if rng.random() < 0.5:  # woven stripes or checks
        period, share = rng.uniform(40, 160), rng.uniform(0.2, 0.5)
        stripe = (column % period) < period * share
        if rng.random() < 0.5:
            stripe = stripe ^ ((row % period) < period * share)
        image[stripe] = image[stripe] * 0.5 + 0.5 * random_colour(rng, (0.2, 0.8), (0.3, 0.8)) * image[stripe] * 1.6
    return image


def _cells(rng: np.random.Generator, num_cells: int) -> tuple[Plane, npt.NDArray[np.int32]]:
    """Distance to the nearest of `num_cells` seeds, and which seed it is."""
    seeds = np.full((GROUND_SIZE, GROUND_SIZE), 255, np.uint8)
    seeds[rng.integers(0, GROUND_SIZE, num_cells), rng.integers(0, GROUND_SIZE, num_cells)] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return np.asarray(distance, np.float32), np.asarray(label, np.int32)


def _gravel(rng: np.random.Generator) -> Plane:
    num_cells = int(rng.integers(700, 9000))
    distance, label = _cells(rng, num_cells)
    radius = 0.62 * GROUND_SIZE / num_cells**0.5
    tone = rng.uniform(0.1, 0.95, num_cells + 2).astype(np.float32)[label]
    image = mix(tone, *_two_tones(rng, 0.35, 0.75))
    dome = np.clip(1.15 - (distance / radius) ** 2, 0.25, 1.0)
    relief = cv2.Sobel(dome, cv2.CV_32F, 1, 1, ksize=3)
    light = dome + 0.25 * relief + 0.07 * noise(rng, GROUND_SIZE, 4, 1)
    return np.asarray(image * light[..., None], np.float32)


def _grass(rng: np.random.Generator) -> Plane:
    earth, _ = _two_tones(rng, 0.7, 0.7)
    green = np.array([0.15, rng.uniform(0.4, 0.6), rng.uniform(0.2, 0.5)], np.float32)
    image = mix((0.5 + 0.3 * noise(rng, GROUND_SIZE, 60, 4)).astype(np.float32), earth * 0.3, green * 0.6)
    start = rng.integers(0, GROUND_SIZE * 16, (5000, 2))
    angle = rng.normal(rng.uniform(0, 6.28), 0.9, 5000)
    reach = rng.uniform(5, 16, 5000) * 16
    end = start + np.stack([np.cos(angle) * reach, np.sin(angle) * reach], 1).astype(np.int64)
    tone = rng.uniform(0.4, 1.3, 5000)
    for (x0, y0), (x1, y1), shade in zip(start.tolist(), end.tolist(), tone.tolist(), strict=True):
        cv2.line(image, (x0, y0), (x1, y1), (green * shade).tolist(), 1, cv2.LINE_AA, 4)
    return image


def _tiles(rng: np.random.Generator) -> Plane:
    return _masonry(rng, float(rng.uniform(40, 130)), 1.0, 0.0)


def _brick(rng: np.random.Generator) -> Plane:
    return _masonry(rng, float(rng.uniform(60, 120)), 0.4, 0.5)


def _masonry(rng: np.random.Generator, length: float, aspect: float, bond: float) -> Plane:
    """Rectangular stones with joints; `bond` shifts every second row by that share of a stone."""
    row, column = np.mgrid[0:GROUND_SIZE, 0:GROUND_SIZE].astype(np.float32)
    line = np.floor(row / (length * aspect))
    shifted = column + bond * length * (line % 2)
    stone = (line * 31 + np.floor(shifted / length) * 17).astype(np.int64) % 997
    tone = rng.uniform(0.2, 0.8, 997).astype(np.float32)[stone]
    field = tone * rng.uniform(0.3, 1.0) + 0.25 + 0.12 * noise(rng, GROUND_SIZE, 40, 5)
    image = mix(field.astype(np.float32), *_two_tones(rng, 0.5, 0.5))
    joint = rng.uniform(2, 6)
    gap = (row % (length * aspect) < joint) | (shifted % length < joint)
    image[gap] = random_colour(rng, (0, 0.2), (0.25, 0.75)) * (1 + 0.1 * noise(rng, GROUND_SIZE, 4, 2)[gap])[:, None]
    return image


def _brushed(rng: np.random.Generator) -> Plane:
    field = 0.5 + 0.16 * noise(rng, GROUND_SIZE, 4, 2, 40.0) + 0.2 * noise(rng, GROUND_SIZE, 260, 2)
    return mix(field.astype(np.float32), *_two_tones(rng, 0.25, 0.45))


def _carpet(rng: np.random.Generator) -> Plane:
    pattern = noise(rng, GROUND_SIZE, float(rng.uniform(25, 70)), 2)
    field = 0.5 + 0.2 * np.sign(pattern) * np.minimum(np.abs(pattern) * 6, 1) + 0.22 * noise(rng, GROUND_SIZE, 3.5, 1)
    return mix(field.astype(np.float32), *_two_tones(rng, 0.8, 0.7))


def _terrazzo(rng: np.random.Generator) -> Plane:
    num_cells = int(rng.integers(1500, 4000))
    distance, label = _cells(rng, num_cells)
    base = random_colour(rng, (0.0, 0.3), (0.5, 0.85))
    flakes = np.stack([random_colour(rng, (0.0, 0.7), (0.2, 0.9)) for _ in range(7)])
    chosen = flakes[rng.integers(0, 7, num_cells + 2)][label]
    limit = rng.uniform(2.0, 9.0, num_cells + 2).astype(np.float32)[label]
    flaked = np.where((distance < limit)[..., None], chosen, base)
    return np.asarray(flaked * (1 + 0.04 * noise(rng, GROUND_SIZE, 60, 5))[..., None], np.float32)


GROUNDS: dict[str, Callable[[np.random.Generator], Plane]] = {
    "wood": _wood,
    "concrete": _concrete,
    "fabric": _fabric,
    "gravel": _gravel,
    "grass": _grass,
    "tiles": _tiles,
    "brushed": _brushed,
    "carpet": _carpet,
}
"""Kinds of ground of both splits, with other seeds."""
GROUNDS_HELD_OUT: dict[str, Callable[[np.random.Generator], Plane]] = {"brick": _brick, "terrazzo": _terrazzo}
"""Kinds of ground of the test split only."""


@lru_cache(maxsize=64)
def ground(split: Split, index: int) -> Image:
    """Ground number `index` of the split: uint8 [640, 640, 3] BGR, cluttered, evenly lit. Read only."""
    rng = np.random.default_rng([SPLIT_SEED[split], 1, index])
    kinds = {**GROUNDS, **GROUNDS_HELD_OUT} if split == "test" else GROUNDS
    image = kinds[list(kinds)[index % len(kinds)]](rng)
    scatter_clutter(image, rng, noise(rng, 96, 30, 4), random_colour)
    dirt = 1 + 0.05 * noise(rng, GROUND_SIZE, 24, 5)
    picture = np.clip(image * (255 * dirt[..., None]), 0, 255).astype(np.uint8)
    picture.flags.writeable = False
    return picture
