"""Projects a solid's points and keeps the nearest per pixel: a z-buffer of dense points."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .solid import Points, Solid
from .tones import Image, Plane

_DISTANCE = np.float32(9.0)
"""From the camera to the solid's middle in the solid's units: a mild perspective."""
_BURIED = 0.42
"""How deep below the visible surface a keypoint may lie and still be called visible: more than a bottle's radius."""
_SQUARE = np.ones((3, 3), np.uint8)
_MARGIN = 4
"""Empty pixels around the solid."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What the camera saw; the maps go on smoothly beyond the solid's edge."""

    colour: Plane
    """[H, W, 3] BGR 0..255, unlit."""
    cover: Image
    """[H, W] 255 where the solid is, else 0."""
    normal: Plane
    """[H, W, 3] unit vectors: x right, y down, z to the camera."""
    depth: Plane
    """[H, W] the solid's units, larger is nearer."""
    openness: Plane
    """[H, W] 0..1: how much of the sky a point sees, by comparing its depth with its surroundings'."""


class Camera:
    """Looks at one solid, which fills `size` pixels in its larger direction."""

    def __init__(self, solid: Solid, rotation: npt.NDArray[np.float64], size: int) -> None:
        self._solid = solid
        self._rotation = rotation.astype(np.float32)
        points = self._rotation @ solid.points
        self._middle = (points.max(1) + points.min(1))[:, None] / 2
        self._points = points - self._middle
        flat = self._flatten(self._points)
        low, high = flat.min(1), flat.max(1)
        self._scale = np.float32((size - 2 * _MARGIN) / float((high - low).max()))
        self._shift = (low + high)[:, None] / 2
        extent = np.ceil((high - low) * self._scale / 2).astype(int) * 2 + 2 * _MARGIN
        self.width, self.height = int(extent[0]), int(extent[1])

    def _flatten(self, points: Points) -> Points:
        return np.asarray(points[:2] / (1 - points[2:] / _DISTANCE), np.float32)

    def _pixels(self, points: Points) -> Points:
        centre = np.array([[self.width / 2], [self.height / 2]], np.float32)
        return np.asarray((self._flatten(points) - self._shift) * self._scale + centre, np.float32)

    def locate(self, points: Points, shot: Shot) -> Points:
        """Where points of the solid [n, 3] are in the picture: x, y in pixels, and 1 where they are in sight, else 0.

        A point at most `_BURIED` below the visible surface, as on the axis of a bottle, counts as in sight.
        """
        where = self._rotation @ points.T - self._middle
        pixels = self._pixels(where)
        column = np.clip(pixels[0].astype(int), 0, self.width - 1)
        row = np.clip(pixels[1].astype(int), 0, self.height - 1)
        in_sight = where[2] >= shot.depth[row, column] - np.float32(_BURIED)
        return np.stack([*pixels, in_sight], 1).astype(np.float32)

    def shoot(self) -> Shot:
        """Take the picture."""
        normals = self._rotation @ self._solid.normals
        facing = np.flatnonzero(normals[2] - (normals * self._points).sum(0) / _DISTANCE > 0)
        points = self._points[:, facing]
        pixels = self._pixels(points)
        cell = pixels[1].astype(np.int64) * self.width + pixels[0].astype(np.int64)
        nearness = points[2]
        nearest = np.full(self.height * self.width, -np.inf, np.float32)
        np.maximum.at(nearest, cell, nearness)
        front = nearness >= nearest[cell]
        cell, chosen = cell[front], facing[front]
        shape = (self.height, self.width)
        # One array for all: 0..2 colour, 3..5 normal, 6 depth, 7 whether the pixel was seen.
        maps = np.zeros((*shape, 8), np.float32)
        flat = maps.reshape(-1, 8)
        flat[cell, :3] = self._solid.colours[chosen]
        flat[cell, 3:6] = normals[:, chosen].T
        flat[cell, 6] = nearest[cell]
        flat[cell, 7] = 1
        cover = cv2.morphologyEx((maps[..., 7] * 255).astype(np.uint8), cv2.MORPH_CLOSE, _SQUARE)
        # Between two points of a near surface a far one may show through: no pixel of a solid is that deep a pit.
        front_map = np.maximum(nearest, -9).reshape(shape)
        maps[cv2.morphologyEx(front_map, cv2.MORPH_CLOSE, _SQUARE) > front_map + np.float32(0.1)] = 0
        _spread(maps)
        depth = np.ascontiguousarray(maps[..., 6])
        return Shot(maps[..., :3], np.asarray(cover, np.uint8), maps[..., 3:6], depth, _openness(depth))


def _spread(maps: Plane) -> None:
    """Fill what was not seen from its surroundings: pin-holes from the next pixels, the outside from further away."""
    height, width = maps.shape[:2]
    flat = maps.reshape(-1, 8)
    first, second = maps[..., :4].copy(), maps[..., 4:].copy()
    missing = np.flatnonzero(flat[:, 7] == 0)
    for side in (2, 6, 20, 64, 256):
        size = (-(-width // side), -(-height // side))
        small = np.concatenate([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (first, second)], 2)
        near = small[missing // width * size[1] // height, missing % width * size[0] // width]
        reached = near[:, 7] > 0
        flat[missing[reached]] = near[reached] / near[reached, 7:]
        missing = missing[~reached]


def _openness(depth: Plane) -> Plane:
    """Dark where the surroundings stand nearer to the camera than the point itself."""
    open_share = np.ones_like(depth)
    for part in (24, 8):
        side = max(depth.shape) // part | 1
        buried = np.maximum(cv2.blur(depth, (side, side)) - depth, 0)
        open_share *= 1 - np.clip(buried * np.float32(2.2), 0, 0.6)
    return open_share
