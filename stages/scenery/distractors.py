"""Solids that are no object of any class."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .solid import Solid, SolidBuilder


def _pebble(b: SolidBuilder) -> Solid:
    grid = b.globe(1.0)
    bumps = np.ones(grid.shape[:2], np.float32)
    for _ in range(5):
        wave = b.rng.normal(0, 2.0, 3).astype(np.float32)
        bumps += np.float32(0.09) * np.sin(grid @ wave + np.float32(b.rng.uniform(0, 6)))
    squash = np.array([1.0, b.rng.uniform(0.4, 0.65), b.rng.uniform(0.3, 0.5)], np.float32)
    b.add(grid * bumps[..., None] * squash, b.paint())
    return b.solid([], float(b.rng.uniform(0, 0.4)))


def _rod(b: SolidBuilder) -> Solid:
    radius = float(b.rng.uniform(0.05, 0.13))
    path = np.array([[-1, 0, radius], [1, 0, radius]], np.float32)
    b.tube(path, radius, b.paint(), (0.3, 2.0))
    return b.solid([], float(b.rng.uniform(0, 0.8)))


def _ring(b: SolidBuilder) -> Solid:
    radius = float(b.rng.uniform(0.1, 0.25))
    t = np.linspace(0, 2 * np.pi, 80, dtype=np.float32)
    big = 1 - radius
    b.tube(np.stack([big * np.cos(t), big * np.sin(t), 0 * t + radius], 1), radius, b.paint(), (1.0, 3.0))
    return b.solid([], float(b.rng.uniform(0, 0.9)))


def _plate(b: SolidBuilder) -> Solid:
    lip, deep = float(b.rng.uniform(0.1, 0.25)), float(b.rng.uniform(0.5, 0.7))
    b.revolve([(deep, 0), (1.0, lip), (0.98, lip + 0.03)], b.paint(), (1.0, 1.0))
    b.revolve([(0.98, lip + 0.03), (deep, 0.06), (0.0, 0.05)], b.paint(), (1.0, 1.0))
    return b.solid([], float(b.rng.uniform(0.2, 0.9)))


def _block(b: SolidBuilder) -> Solid:
    """An L, T or Z of square cells."""
    side = 240
    last = ([(2, 0), (2, 1)], [(2, 0), (1, 1)], [(1, 1), (2, 1)])[int(b.rng.integers(0, 3))]
    outline = np.zeros((side, side), np.uint8)
    for i, j in [(0, 0), (1, 0), *last]:
        outline[10 + i * 73 : 10 + (i + 1) * 73 + 1, 45 + j * 73 : 45 + (j + 1) * 73 + 1] = 255
    b.slab(outline, float(b.rng.uniform(0.2, 0.5)), 0.04, b.paint())
    return b.solid([], float(b.rng.uniform(0, 0.7)))


def _shard(b: SolidBuilder) -> Solid:
    side, corners = 240, int(b.rng.integers(3, 6))
    outline = np.zeros((side, side), np.uint8)
    turn = (np.arange(corners) + b.rng.uniform(0.0, 0.6, corners)) * 2 * np.pi / corners
    reach = b.rng.uniform(70, 115, corners)
    points = side / 2 + reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    cv2.fillPoly(outline, [points.astype(np.int32)], 255)
    b.slab(outline, float(b.rng.uniform(0.08, 0.35)), 0.08, b.paint())
    return b.solid([], float(b.rng.uniform(0, 0.9)))


def _coil(b: SolidBuilder) -> Solid:
    turns, radius = float(b.rng.uniform(3, 6)), 0.1
    t = np.linspace(0, 1, 400, dtype=np.float32)
    wind = 2 * np.pi * turns * t
    b.tube(np.stack([2 * t - 1, 0.3 * np.cos(wind), 0.4 + 0.3 * np.sin(wind)], 1), radius, b.paint(), (1.0, 4.0))
    return b.solid([], float(b.rng.uniform(0.2, 0.9)))


DISTRACTORS: dict[str, Callable[[SolidBuilder], Solid]] = {
    "pebble": _pebble,
    "rod": _rod,
    "ring": _ring,
    "plate": _plate,
    "block": _block,
    "shard": _shard,
}
"""Solids that are no object of any class, in both splits."""
DISTRACTORS_HELD_OUT: dict[str, Callable[[SolidBuilder], Solid]] = {"coil": _coil}
"""Solids that are no object of any class, in the test split only."""
