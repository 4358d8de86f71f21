"""The solids of the classes. Proportions, paint and small features vary with the random generator; the kind does not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np

from .solid import Solid, SolidBuilder
from .tones import Image


def _mug(b: SolidBuilder) -> Solid:
    r, h = float(b.rng.uniform(0.52, 0.66)), float(b.rng.uniform(1.1, 1.5))
    top = r * float(b.rng.uniform(0.95, 1.12))
    wall = 0.07
    coat = b.paint()
    inner = coat if b.rng.random() < 0.4 else b.paint()
    b.revolve([(r * 0.85, 0), (r, 0.06), (top, h), (top - wall / 2, h + 0.02), (top - wall, h)], coat, (2.0, 1.0))
    b.revolve([(top - wall, h), (r - wall, 0.1), (0.0, 0.08)], inner, (1.0, 1.0))
    t = np.linspace(-0.5, 0.5, 40, dtype=np.float32) * np.pi
    reach, rise = float(b.rng.uniform(0.38, 0.52)), 0.36 * h
    path = np.stack([(r + top) / 2 - 0.05 + reach * np.cos(t), 0 * t, h * 0.5 + rise * np.sin(t)], 1)
    b.tube(path, float(b.rng.uniform(0.075, 0.11)), coat, (0.4, 1.0))
    points = [(top, 0, h), (-top, 0, h), (r, 0, 0), (-r, 0, 0), ((r + top) / 2 + reach, 0, h * 0.5)]
    return b.solid(points, float(b.rng.uniform(0.2, 0.9)))


def _bottle(b: SolidBuilder) -> Solid:
    r, h = float(b.rng.uniform(0.28, 0.38)), 2.0
    shoulder, neck = float(b.rng.uniform(0.95, 1.3)), float(b.rng.uniform(1.45, 1.6))
    slim = r * float(b.rng.uniform(0.3, 0.42))
    glass, label, cap = b.paint(), b.paint(), b.paint()
    low, high = 0.25, shoulder - float(b.rng.uniform(0.1, 0.3))
    b.revolve([(r * 0.9, 0), (r, 0.05), (r, low)], glass, (1.0, 0.5))
    b.revolve([(r * 1.01, low), (r * 1.01, high)], label, (2.0, 1.0))
    bend = np.linspace(0, 1.5, 9)
    curve = zip(slim + (r - slim) * np.cos(bend) ** 1.3, shoulder + (neck - shoulder) * np.sin(bend), strict=True)
    b.revolve([(r, high), *((float(x), float(z)) for x, z in curve), (slim, 1.8)], glass, (1.0, 0.3))
    b.revolve([(slim, 1.78), (slim * 1.35, 1.8), (slim * 1.35, h), (0.0, h)], cap, (1.0, 0.3))
    points = [(0, 0, h), (0, 0, 1.78), (0, 0, shoulder), (0, 0, h * 0.4), (0, 0, 0)]
    return b.solid(points, float(b.rng.uniform(0.5, 1.0)))


def _ball(b: SolidBuilder) -> Solid:
    texture = b.paint().copy()
    if b.rng.random() < 0.6:  # panels with seams, as on a beach or basket ball
        panels = int(b.rng.integers(2, 5))
        second = b.paint()
        band = (np.arange(texture.shape[0]) * 2 * panels // texture.shape[0]) % 2 == 1
        texture[band] = second[band]
        texture[np.flatnonzero(np.diff(band.astype(int)))] //= 4
    b.add(b.globe(1.0), texture)
    points = [(0, 0, 0)] * 5  # the sprite replaces them by the centre and four points of the outline
    return b.solid(points, float(b.rng.uniform(0.1, 0.9)))


def _crate(b: SolidBuilder) -> Solid:
    x, y, z = (float(b.rng.uniform(0.6, 0.85)), float(b.rng.uniform(0.5, 0.8)), float(b.rng.uniform(0.8, 1.3)))
    boards, side = int(b.rng.integers(3, 6)), 96
    row = np.arange(side) * boards % side < boards * 2  # gaps between the boards
    rim = max(8, int(side * b.rng.uniform(0.1, 0.16)))
    frame = np.ones((side, side), bool)
    frame[rim:-rim, rim:-rim] = False
    if b.rng.random() < 0.6:
        i, j = np.mgrid[0:side, 0:side]
        frame |= np.abs(i - j) < rim * 0.7
    relief = np.where(frame, 0, -0.07).astype(np.float32)
    wood, batten = cv2.resize(b.paint(), (side, side)), cv2.resize(b.paint(), (side, side))
    face = np.asarray(wood, np.uint8).copy()
    face[:, row] //= 3
    face[frame] = batten[frame] if b.rng.random() < 0.5 else wood[frame]
    edge = cv2.morphologyEx(frame.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    face[edge] //= 2
    front = face.copy()
    label = slice(side // 2 - 14, side // 2 + 14)
    front[label, label] = (235, 240, 240)
    front[side // 2 - 6 : side // 2 + 6 : 4, side // 2 - 10 : side // 2 + 10] = 30
    flush = relief.copy()
    flush[label, label] = 0
    b.box((-x, -y, 0), (x, y, z), [front, face, face, face, face], [flush, relief, relief, relief, relief])
    points = [(-x, -y, z), (x, -y, z), (x, y, z), (-x, y, z), (0, -y, z / 2)]
    return b.solid(points, float(b.rng.uniform(0.0, 0.25)))


def _cone(b: SolidBuilder) -> Solid:
    r, h = float(b.rng.uniform(0.5, 0.62)), float(b.rng.uniform(1.6, 2.0))
    body, band = b.paint(), b.paint()
    tip, base = 0.09, float(b.rng.uniform(0.72, 0.85))
    stripes = body.copy()
    for start in (0.35, 0.65)[: int(b.rng.integers(1, 3))]:
        rows = slice(int(128 * start), int(128 * (start + 0.17)))
        stripes[:, rows] = np.maximum(band[:, rows], 150)
    b.revolve([(r, 0.1), (tip, h), (tip * 0.7, h + 0.01), (tip * 0.6, h - 0.2)], stripes, (1.0, 1.0))
    foot = b.paint() if b.rng.random() < 0.5 else body
    b.box((-base, -base, 0), (base, base, 0.12), [foot], [None])
    points = [(0, 0, h), (-base, -base, 0.12), (base, -base, 0.12), (base, base, 0.12), (-base, base, 0.12)]
    return b.solid(points, float(b.rng.uniform(0.1, 0.5)))


def _star(b: SolidBuilder) -> Solid:
    inner, height = float(b.rng.uniform(0.4, 0.5)), float(b.rng.uniform(0.3, 0.5))
    corners = np.array([(1.0 if k % 2 == 0 else inner) for k in range(11)], np.float32)
    turn = np.linspace(0, 2 * np.pi, 11, dtype=np.float32) + np.float32(np.pi / 2)
    outline = corners[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    texture = b.paint()
    edge = 0.08
    for a, c in pairwise(outline):
        count = b.count(1.1)
        share = np.linspace(0, 1, b.count(0.9), dtype=np.float32)
        rim = a + share[:, None] * (c - a)
        out = np.linspace(0, 1, count, dtype=np.float32)
        grid = np.empty((count, len(share), 3), np.float32)
        grid[..., :2] = out[:, None, None] * rim
        grid[..., 2] = (edge + height * (1 - out))[:, None]
        b.add(grid, texture)
        wall = np.empty((len(share), b.count(edge), 3), np.float32)
        wall[..., :2] = rim[:, None]
        wall[..., 2] = np.linspace(0, edge, wall.shape[1], dtype=np.float32)
        b.add(wall, texture)
    mark = np.array([0, 0.72], np.float32)  # a stud on the first tip says which tip that is
    t = np.linspace(0, 2 * np.pi, b.count(0.8), dtype=np.float32)
    r = np.linspace(0, 0.085, b.count(0.09), dtype=np.float32)
    stud = np.empty((len(r), len(t), 3), np.float32)
    stud[..., 0] = mark[0] + r[:, None] * np.cos(t)
    stud[..., 1] = mark[1] + r[:, None] * np.sin(t)
    stud[..., 2] = edge + height * 0.28 + 0.06 - 0.5 * r[:, None]
    b.add(stud, np.full((8, 8, 3), 20 if texture.mean() > 90 else 235, np.uint8))
    points = [(*corner, edge) for corner in outline[0:10:2].tolist()]
    return b.solid(points, float(b.rng.uniform(0.2, 0.9)))


def _page(b: SolidBuilder) -> Image:
    """A printed page: a heading, lines of text and sometimes a picture."""
    page = np.full((96, 72, 3), int(b.rng.integers(205, 250)), np.uint8)
    ink = int(b.rng.integers(10, 90))
    page[8:14, 10 : int(b.rng.integers(30, 60))] = ink
    pitch = int(b.rng.integers(5, 8))
    for y in range(20, 88, pitch):
        page[y : y + pitch // 2, 8 : int(b.rng.integers(48, 66))] = ink
    if b.rng.random() < 0.6:
        y = int(b.rng.integers(18, 50))
        page[y : y + 34, 10:62] = cv2.resize(b.paint(), (52, 34))
    return page


def _book(b: SolidBuilder) -> Solid:
    half, depth = 1.0, float(b.rng.uniform(0.62, 0.74))
    bulge, block = float(b.rng.uniform(0.12, 0.24)), float(b.rng.uniform(0.1, 0.2))
    cover = b.paint()
    margin = 0.06
    b.box((-half - margin, -depth - margin, 0), (half + margin, depth + margin, 0.05), [cover], [None])
    v = np.linspace(-depth, depth, b.count(2 * depth), dtype=np.float32)
    for side in (-1.0, 1.0):
        x = np.linspace(0, 1, b.count(1.3), dtype=np.float32)
        z = 0.05 + block + bulge * np.sqrt(np.maximum(np.sin(np.pi * x**0.6), 0)) - block * 0.7 * x**3
        z *= np.clip(0.35 + x * 6, 0, 1)
        grid = np.empty((len(x), len(v), 3), np.float32)
        grid[..., 0] = side * x[:, None]
        grid[..., 1] = v
        grid[..., 2] = z[:, None]
        page = _page(b)
        page = np.ascontiguousarray(page[::-1].transpose(1, 0, 2))
        b.add(grid if side > 0 else grid[::-1], page)
        for end in (-1.0, 1.0):  # the cut edges of the pages
            lift = np.linspace(0, 1, b.count(0.4), dtype=np.float32)
            wall = np.empty((len(x), len(lift), 3), np.float32)
            wall[..., 0] = side * x[:, None]
            wall[..., 1] = end * depth
            wall[..., 2] = 0.05 + lift * (z[:, None] - 0.05)
            b.add(wall if side * end < 0 else wall[::-1], np.full((8, 8, 3), 190, np.uint8))
    right, back = half + margin, depth + margin
    corners = [(-right, back, 0.05), (right, back, 0.05), (right, -back, 0.05), (-right, -back, 0.05)]
    return b.solid([*corners, (0, 0, 0.1)], float(b.rng.uniform(0.0, 0.2)))


def _wrench(b: SolidBuilder) -> Solid:
    side = 384
    outline = np.zeros((side, side), np.uint8)
    width = int(side * b.rng.uniform(0.085, 0.115))
    head, ring = int(side * b.rng.uniform(0.13, 0.155)), int(side * b.rng.uniform(0.105, 0.13))
    middle, top, bottom = side // 2, head + 6, side - ring - 6
    cv2.line(outline, (middle, top), (middle, bottom), 255, width)
    cv2.circle(outline, (middle, top), head, 255, -1)
    cv2.circle(outline, (middle, bottom), ring, 255, -1)
    cv2.circle(outline, (middle, bottom), int(ring * 0.55), 0, -1)
    gap = int(head * b.rng.uniform(0.48, 0.62))
    lean = float(b.rng.uniform(0.1, 0.35))
    far, near, deep = -head * 1.6, head * 0.15, head * 0.4
    mouth = np.array([(-gap, far), (gap, far), (gap, near), (0, deep), (-gap, near)])
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    cut = mouth @ turn.T + (middle, top)
    cv2.fillPoly(outline, [cut.astype(np.int32)], 0)
    if b.rng.random() < 0.5:
        steel = np.asarray(b.rng.normal(int(b.rng.integers(110, 200)), 6, (32, 32, 3)).clip(0, 255), np.uint8)
    else:
        steel = b.paint()
    b.slab(outline, float(b.rng.uniform(0.12, 0.2)), 0.05, steel)
    height = 0.15
    pixel = [
        *(np.array([(-gap - head * 0.18, -head * 0.75), (gap + head * 0.18, -head * 0.75)]) @ turn.T + (middle, top)),
        np.array([middle, top + head * 0.7]),
        np.array([middle, (top + bottom) / 2]),
        np.array([middle, bottom - ring * 0.78]),
    ]
    points = [(2 * x / side - 1, 1 - 2 * y / side, height) for x, y in pixel]
    return b.solid(points, float(b.rng.uniform(0.5, 1.0)))


OBJECTS: dict[str, Callable[[SolidBuilder], Solid]] = {
    "mug": _mug,
    "bottle": _bottle,
    "ball": _ball,
    "crate": _crate,
    "cone": _cone,
    "star": _star,
    "book": _book,
    "wrench": _wrench,
}
"""How each class is built."""
