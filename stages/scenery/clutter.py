"""Flat clutter on the ground of a generated scene: what lies about and looks a little like an object, but is none.

Sheets of print, discs, rings, triangles, bars, leaves, cables, tape and stains, each with a thin shadow where it has any
thickness. It is drawn into the ground texture, hence seen in the ground's perspective, and is never annotated.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Colour = Callable[[np.random.Generator, tuple[float, float], tuple[float, float]], Plane]

_SHIFT = 4
"""Sub-pixel bits of the drawn coordinates."""


def scatter_clutter(image: Plane, rng: np.random.Generator, print_noise: Plane, colour: Colour) -> None:
    """Draw 12 to 40 flat items into `image` float32 [S, S, 3], 0..1, in place; `print_noise` is what photographs show."""
    size = image.shape[0]
    for _ in range(int(rng.integers(12, 41))):
        centre = rng.uniform(0.04 * size, 0.96 * size, 2)
        radius = float(np.exp(rng.uniform(np.log(6), np.log(70))))
        kind = int(rng.integers(0, 8))
        tone = colour(rng, (0.0, 0.9), (0.1, 0.95))
        if kind == 0:
            _sheet(image, rng, centre, radius, print_noise)
        elif kind == 1:
            _filled(image, rng, _ellipse(centre, radius, radius * rng.uniform(0.85, 1.0), 0.0), tone, 1.5)
        elif kind == 2:
            _line(image, _ellipse(centre, radius, radius, 0.0), tone, rng.uniform(0.1, 0.3) * radius, closed=True)
        elif kind == 3:
            _filled(image, rng, _polygon(rng, centre, radius, 3), tone, 1.5)
        elif kind == 4:
            _filled(image, rng, _rectangle(rng, centre, radius, rng.uniform(0.08, 0.3)), tone, 2.0)
        elif kind == 5:
            _leaf(image, rng, centre, min(radius, 30.0), tone)
        elif kind == 6:
            steps = rng.normal(0, 40, (12, 2)).cumsum(0) + centre
            way = cv2.resize(steps.astype(np.float32), (2, 160), interpolation=cv2.INTER_CUBIC)
            smooth = np.asarray(way, np.float32)
            _line(image, smooth + 1.5, np.zeros(3, np.float32), 4.0, closed=False, opacity=0.3)
            _line(image, smooth, tone * 0.7, 3.0, closed=False)
        else:
            _stain(image, rng, centre, radius)


def _ellipse(centre: npt.NDArray[np.float64], a: float, b: float, angle: float) -> Plane:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = a * np.cos(t), b * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * x - s * y, s * x + c * y], 1).astype(np.float32) + centre.astype(np.float32)


def _polygon(rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float, corners: int) -> Plane:
    t = np.sort(rng.uniform(0, 0.5, corners) + np.arange(corners)) * 2 * np.pi / corners
    return (centre + radius * np.stack([np.cos(t), np.sin(t)], 1)).astype(np.float32)


def _rectangle(rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float, aspect: float) -> Plane:
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * radius
    across = np.array([-np.sin(angle), np.cos(angle)]) * radius * aspect
    corners = [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    return np.array(corners, np.float32)


def _fixed(points: Plane) -> npt.NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _filled(image: Plane, rng: np.random.Generator, points: Plane, tone: Plane, thickness: float) -> None:
    shadow = points + np.float32(thickness)
    _blend(image, shadow, np.zeros(3, np.float32), 0.35)
    _blend(image, points, tone, float(rng.uniform(0.75, 1.0)))


def _blend(image: Plane, points: Plane, tone: Plane, opacity: float) -> None:
    low = np.maximum(np.floor(points.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + 3, image.shape[0])
    if (high <= low).any():
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    cover = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(cover, [_fixed(points - low.astype(np.float32))], 255, cv2.LINE_AA, _SHIFT)
    share = cover[..., None].astype(np.float32) * np.float32(opacity / 255)
    part *= 1 - share
    part += share * tone


def _line(image: Plane, points: Plane, tone: Plane, width: float, *, closed: bool, opacity: float = 1.0) -> None:
    layer = image if opacity == 1.0 else image.copy()
    cv2.polylines(layer, [_fixed(points)], closed, tone.tolist(), max(1, round(width)), cv2.LINE_AA, _SHIFT)
    if layer is not image:
        image += np.float32(opacity) * (layer - image)


def _sheet(
    image: Plane, rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float, print_noise: Plane
) -> None:
    """A sheet of paper with lines of text and a photograph."""
    page = np.full((96, 96, 3), rng.uniform(0.7, 0.95), np.float32)
    page *= rng.uniform(0.9, 1.0, 3).astype(np.float32)
    ink = rng.uniform(0.05, 0.5)
    for y in range(8, 90, int(rng.integers(5, 10))):
        cv2.line(page, (8, y), (int(rng.integers(50, 90)), y), (ink, ink, ink), 2)
    if rng.random() < 0.6:
        x, y = rng.integers(8, 40, 2).tolist()
        photo = np.clip(0.5 + 0.2 * print_noise[:44, :44, None] * rng.uniform(-1, 1, 3), 0, 1)
        page[y : y + 44, x : x + 44] = photo
    corners = _rectangle(rng, centre, radius, rng.uniform(0.6, 0.9))
    _blend(image, corners + np.float32(1.5), np.zeros(3, np.float32), 0.3)
    _paste(image, page, corners)


def _paste(image: Plane, page: Plane, corners: Plane) -> None:
    low = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, image.shape[0])
    part = image[low[1] : high[1], low[0] : high[0]]
    side = np.float32(page.shape[0])
    square = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    matrix = cv2.getPerspectiveTransform(square, corners - low.astype(np.float32))
    size = (part.shape[1], part.shape[0])
    cover = cv2.warpPerspective(np.ones(page.shape[:2], np.float32), matrix, size, flags=cv2.INTER_LINEAR)[..., None]
    part *= 1 - cover
    part += cover * cv2.warpPerspective(page, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _leaf(image: Plane, rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float, tone: Plane) -> None:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    r = radius * (0.25 + 0.75 * np.abs(np.cos(t)) ** 1.5) * (1 + 0.08 * rng.standard_normal(40))
    angle = rng.uniform(0, 2 * np.pi)
    x, y = r * np.cos(t), 0.45 * r * np.sin(t)
    points = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], 1)
    outline = (points + centre).astype(np.float32)
    _filled(image, rng, outline, tone * np.array([0.4, 1.0, 0.8], np.float32), 1.0)
    _line(image, outline[[0, 20]], tone * 0.4, 1.0, closed=False)


def _stain(image: Plane, rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float) -> None:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = np.zeros_like(t)
    for wave in range(1, 6):
        wobble += rng.normal(0, 0.15) * np.sin(wave * t + rng.uniform(0, 6))
    points = centre + radius * (1 + wobble)[:, None] * np.stack([np.cos(t), np.sin(t)], 1)
    tone = np.full(3, rng.choice([0.05, 0.8]), np.float32)
    _blend(image, points.astype(np.float32), tone, float(rng.uniform(0.1, 0.35)))
