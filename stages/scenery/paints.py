"""Procedural paint on the solids, different in each split; some kinds occur in the test split only."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .tones import Image, Plane, Split, mix, noise, random_colour

PAINT_SIZE = 128
"""Side of a paint texture, pixels."""


def _plain(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    return mix((0.15 + 0.12 * noise(rng, PAINT_SIZE, 50, 4)).astype(np.float32), base, other)


def _stripes(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    row, column = np.mgrid[0:PAINT_SIZE, 0:PAINT_SIZE].astype(np.float32) / PAINT_SIZE
    along = row if rng.random() < 0.6 else column
    phase = along * rng.integers(2, 7) + 0.02 * noise(rng, PAINT_SIZE, 30, 2)
    return mix(((phase % 1) < rng.uniform(0.25, 0.6)).astype(np.float32), base, other)


def _checks(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    row, column = np.mgrid[0:PAINT_SIZE, 0:PAINT_SIZE].astype(np.float32) / PAINT_SIZE
    count = int(rng.integers(2, 6))
    return mix(((np.floor(row * count) + np.floor(column * count)) % 2).astype(np.float32), base, other)


def _dots(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    image = np.tile(base, (PAINT_SIZE, PAINT_SIZE, 1))
    for x, y in rng.integers(0, PAINT_SIZE, (int(rng.integers(8, 30)), 2)).tolist():
        cv2.circle(image, (x, y), int(rng.integers(4, 12)), other.tolist(), -1, cv2.LINE_AA)
    return image


def _grained(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    field = 0.5 + 0.3 * np.sin(noise(rng, PAINT_SIZE, 40, 3, 5.0) * 5) + 0.12 * noise(rng, PAINT_SIZE, 4, 1, 8.0)
    return mix(field.astype(np.float32), base, other)


def _speckled(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    return mix((noise(rng, PAINT_SIZE, 6, 2) > rng.uniform(0.6, 1.6)).astype(np.float32), base, other)


def _worn(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    return mix(noise(rng, PAINT_SIZE, 40, 5) * 2 - 1, base, other)


def _marbled(rng: np.random.Generator, base: Plane, other: Plane) -> Plane:
    veins = 1 - np.abs(np.sin(noise(rng, PAINT_SIZE, 60, 4) * 2)) ** 0.5
    return mix(veins.astype(np.float32), base, other)


Paint = Callable[[np.random.Generator, Plane, Plane], Plane]
PAINTS: dict[str, Paint] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "grained": _grained,
    "speckled": _speckled,
}
"""Kinds of paint of both splits, with other seeds."""
PAINTS_HELD_OUT: dict[str, Paint] = {"worn": _worn, "marbled": _marbled}
"""Kinds of paint of the test split only."""


def paint(rng: np.random.Generator, split: Split) -> Image:
    """A paint drawn at random: uint8 [128, 128, 3] BGR."""
    kinds = {**PAINTS, **PAINTS_HELD_OUT} if split == "test" else PAINTS
    base = random_colour(rng, (0.05, 0.9), (0.25, 0.95))
    other = random_colour(rng, (0.0, 0.9), (0.1, 0.95))
    name = "plain" if rng.random() < 0.25 else list(kinds)[int(rng.integers(0, len(kinds)))]
    image = kinds[name](rng, base, other) * (1 + 0.04 * noise(rng, PAINT_SIZE, 20, 3))[..., None]
    return np.asarray(np.clip(image * 255, 0, 255), np.uint8)
