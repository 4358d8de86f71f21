"""A solid as dense oriented points, and the surfaces it is built of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from .paints import paint
from .tones import Image, Plane, Split

Points: TypeAlias = npt.NDArray[np.float32]
"""[n, 3] or [3, n] coordinates."""


@dataclass(frozen=True, slots=True)
class Solid:
    """A solid as points of its surface. It stands on the ground z = 0, z up, and is about 2 units in its largest extent."""

    points: Points
    """[3, P] x, y, z."""
    normals: Points
    """[3, P] outward unit normals."""
    colours: Image
    """[P, 3] BGR."""
    keypoints: Points
    """[5, 3] x, y, z of the class's keypoints, or [0, 3] for a distractor."""
    gloss: float
    """Strength of the highlight, 0..1."""


class SolidBuilder:
    """Collects the surfaces of one solid, sampled at `points_per_unit`; a solid draws its random numbers from `rng`."""

    def __init__(self, rng: np.random.Generator, split: Split, points_per_unit: float) -> None:
        self.rng = rng
        self.split: Split = split
        self.density = points_per_unit
        self._points: list[Points] = []
        self._normals: list[Points] = []
        self._colours: list[Image] = []

    def paint(self) -> Image:
        """A paint of this split."""
        return paint(self.rng, self.split)

    def count(self, length: float) -> int:
        """How many points a line of this length takes."""
        return max(6, int(length * self.density))

    def add(self, grid: Points, texture: Image, repeat: tuple[float, float] = (1.0, 1.0)) -> None:
        """A surface from a grid of points [U, V, 3] whose d/du x d/dv points outward, painted `repeat` times."""
        planes = np.ascontiguousarray(np.moveaxis(grid, -1, 0), np.float32)
        ux, uy, uz = np.gradient(planes, axis=1)
        vx, vy, vz = np.gradient(planes, axis=2)
        normals = np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx])
        normals /= np.maximum(np.sqrt((normals * normals).sum(0)), np.float32(1e-12))
        rows, columns = grid.shape[:2]
        v = (np.arange(rows) * (repeat[0] * texture.shape[0] / rows)).astype(np.int64) % texture.shape[0]
        u = (np.arange(columns) * (repeat[1] * texture.shape[1] / columns)).astype(np.int64) % texture.shape[1]
        self._points.append(planes.reshape(3, -1))
        self._normals.append(normals.reshape(3, -1))
        self._colours.append(texture[v[:, None], u[None, :]].reshape(-1, 3))

    def revolve(self, profile: Sequence[tuple[float, float]], texture: Image, repeat: tuple[float, float]) -> None:
        """Turn a profile of (radius, z), given from the bottom up on the outside, about the z axis."""
        knots = np.array(profile, np.float32)
        reach = np.concatenate([[0.0], np.hypot(*np.diff(knots, axis=0).T).cumsum()])
        share = np.linspace(0, float(reach[-1]), self.count(float(reach[-1])))
        radius, height = np.interp(share, reach, knots[:, 0]), np.interp(share, reach, knots[:, 1])
        turn = np.linspace(0, 2 * np.pi, self.count(6.3 * float(knots[:, 0].max())))
        grid = np.empty((len(turn), len(share), 3), np.float32)
        grid[..., 0] = np.cos(turn)[:, None] * radius
        grid[..., 1] = np.sin(turn)[:, None] * radius
        grid[..., 2] = height
        self.add(grid, texture, repeat)

    def face(self, corner: Points, side: Points, up: Points, texture: Image, relief: Plane | None = None) -> None:
        """A flat face corner + u side + v up; side x up points outward; `relief` [n, n] raises it along the normal."""
        rows, columns = self.count(float(np.linalg.norm(side))), self.count(float(np.linalg.norm(up)))
        u = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
        v = np.linspace(0, 1, columns, dtype=np.float32)[None, :, None]
        grid = corner + u * side + v * up
        if relief is not None:
            normal = np.cross(side, up)
            height = cv2.resize(relief, (columns, rows), interpolation=cv2.INTER_LINEAR)
            grid = grid + height[..., None] * (normal / np.linalg.norm(normal)).astype(np.float32)
        self.add(grid, texture)

    def box(
        self, low: Sequence[float], high: Sequence[float], textures: Sequence[Image], reliefs: Sequence[Plane | None]
    ) -> None:
        """Five faces of a box, without the bottom: front (-y), right, back, left, top take textures and reliefs in turn."""
        a, b = np.array(low, np.float32), np.array(high, np.float32)
        x, y, z = np.diag(b - a).astype(np.float32)
        faces = [(a, x, z), (a + x, y, z), (a + x + y, -x, z), (a + y, -y, z), (a + z, x, y)]
        for index, (corner, side, up) in enumerate(faces):
            self.face(corner, side, up, textures[index % len(textures)], reliefs[index % len(reliefs)])

    def tube(self, path: Points, radius: float, texture: Image, repeat: tuple[float, float]) -> None:
        """A round tube along a path [n, 3]."""
        length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        count = self.count(length * 1.2)
        path = np.asarray(cv2.resize(path.astype(np.float32), (3, count), interpolation=cv2.INTER_LINEAR), np.float32)
        tangent = np.gradient(path, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
        helper = np.array([0.31, 0.87, 0.38], np.float32)
        first = np.cross(tangent, helper)
        first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
        second = np.cross(tangent, first)
        turn = np.linspace(0, 2 * np.pi, self.count(6.5 * radius), dtype=np.float32)
        around = np.cos(turn)[:, None, None] * first + np.sin(turn)[:, None, None] * second
        self.add((path[None] + radius * around).astype(np.float32), texture, repeat)

    def slab(self, outline: npt.NDArray[np.uint8], thickness: float, bevel: float, texture: Image) -> None:
        """A flat solid lying on the ground: `outline` [n, n] uint8, non-zero inside, covers x, y in [-1, 1]."""
        side = outline.shape[0]
        inside = cv2.distanceTransform((outline > 0).astype(np.uint8), cv2.DIST_L2, 5) * np.float32(2 / side)
        count = self.count(2.0)
        axis = np.linspace(-1, 1, count, dtype=np.float32)
        depth = cv2.resize(inside, (count, count), interpolation=cv2.INTER_LINEAR)
        height = thickness - bevel * (1 - np.clip(depth / max(bevel, 1e-6), 0, 1)) ** 2
        grid = np.stack([*np.meshgrid(axis, -axis, indexing="ij"), height.T], -1)[:, ::-1]
        start = len(self._points)
        self.add(grid.astype(np.float32), texture)
        keep = depth.T[:, ::-1].reshape(-1) > 0.5 / side
        for part in (self._points, self._normals):
            part[start] = part[start][:, keep]
        self._colours[start] = self._colours[start][keep]
        contours, _ = cv2.findContours((outline > 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            rim = (contour[:, 0].astype(np.float32) + 0.5) * np.float32(2 / side) - 1
            rim = np.concatenate([rim, rim[:1]]) * np.array([1, -1], np.float32)
            length = float(np.linalg.norm(np.diff(rim, axis=0), axis=1).sum())
            smooth = cv2.GaussianBlur(rim, (1, 5), 1.0) if len(rim) > 5 else rim
            rim = np.asarray(cv2.resize(smooth, (2, self.count(length)), interpolation=cv2.INTER_LINEAR), np.float32)
            levels = np.linspace(0, thickness - bevel, self.count(thickness), dtype=np.float32)
            wall = np.empty((len(levels), len(rim), 3), np.float32)
            wall[..., :2] = rim
            wall[..., 2] = levels[:, None]
            self.add(wall[::-1], texture, (0.1, 1.0))

    def globe(self, radius: float) -> Points:
        """The points of a sphere about the origin [turn, rise, 3], for `add`."""
        rise = np.linspace(-np.pi / 2, np.pi / 2, self.count(3.2 * radius), dtype=np.float32)
        turn = np.linspace(0, 2 * np.pi, self.count(6.5 * radius), dtype=np.float32)
        grid = np.empty((len(turn), len(rise), 3), np.float32)
        grid[..., 0] = radius * np.cos(turn)[:, None] * np.cos(rise)
        grid[..., 1] = radius * np.sin(turn)[:, None] * np.cos(rise)
        grid[..., 2] = radius * np.sin(rise)
        return grid

    def solid(self, keypoints: Sequence[Sequence[float]], gloss: float) -> Solid:
        """All surfaces as one solid."""
        return Solid(
            np.concatenate(self._points, 1),
            np.concatenate(self._normals, 1),
            np.concatenate(self._colours),
            np.array(keypoints, np.float32).reshape(-1, 3),
            gloss,
        )
