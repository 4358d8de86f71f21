"""Films of the generated world: objects drift, come and go, turn; the camera sways; the exposure drifts.

A clip is a row of takes of about ten seconds, each on its own ground in its own light. The last part of a take has no
object in it, so that of any number of whole takes exactly the chosen fraction of frames is empty; in every other frame one
object, drawn last, stays wholly in sight. A frame depends on its number only, so any frame can be had at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...pipeline.errors import ConfigError
from .classes import CLASSES
from .frame import SceneFrame, SceneTruth
from .layer import DISTRACTOR, Item
from .look import Look, random_look
from .sprites import Sprite
from .still import Paintwork, random_angle, random_distractor, random_object, random_paintwork, random_size
from .tones import SPLIT_SEED

if TYPE_CHECKING:
    from ..scenes import SceneWorld

TAKE_S = 10.0
"""About how long a take is, seconds."""
MAX_SPEED = 0.25
"""No object moves faster over the ground than this, in short sides of the picture per second."""
MAX_TURN = 0.5
"""No object turns faster than this, radians per second."""
_SHUTTER = 0.5
"""Share of a frame's time in which the shutter is open."""
_CLIP, _CAST = 7, 8
_NUM_SPOTS = 5
"""Of so many ways that are drawn for an object, the one with the most room in the middle of the take is taken."""
_NUM_EXTRAS = 5
"""A clip has a cast, two objects of each class and so many distractors: photographed when it begins, not while it runs."""


@dataclass(frozen=True, slots=True)
class _Actor:
    """One solid's way through a take. Lengths are shares of the picture's short side, times seconds since its begin."""

    sprite: Sprite
    label: int
    identity: int
    paintwork: Paintwork
    size: float
    """Of the longest distance in the outline."""
    x: float
    y: float
    """At the middle of the take."""
    speed: tuple[float, float]
    sway: float
    sway_phase: float
    angle: float
    turn: float
    """Radians per second."""

    def at(self, time_s: float, length_s: float) -> tuple[float, float]:
        phase = 0.8 * time_s + self.sway_phase
        since = time_s - length_s / 2
        return (
            self.x + self.speed[0] * since + self.sway * math.sin(phase),
            self.y + self.speed[1] * since + 0.6 * self.sway * math.cos(1.3 * phase),
        )


@dataclass(frozen=True, slots=True)
class _Take:
    look: Look
    actors: tuple[_Actor, ...]
    length_s: float
    shake: tuple[float, ...]
    """Phases of the camera's sway and of the exposure's drift."""


class SceneClip:
    """`frame(t)` for t = 0 .. num_frames - 1, or without end where `num_frames` is None. Made by `SceneWorld.clip`.

    Raises ConfigError for fewer than one frame, or a frame rate outside 1 to 1000.
    """

    def __init__(self, world: SceneWorld, clip_seed: int, num_frames: int | None, fps: float) -> None:
        if num_frames is not None and num_frames < 1:
            raise ConfigError(f"a clip of {num_frames} frames is not made; give 1 or more")
        if not 1 <= fps <= 1000:
            raise ConfigError(f"a clip of {fps} frames per second is not made; give 1 to 1000")
        if clip_seed < 0:
            raise ConfigError(f"the seed of the clip is {clip_seed}; give 0 or more")
        self.num_frames = num_frames
        self.fps = fps
        self._world = world
        self._seed = [SPLIT_SEED[world.split], _CLIP, world.seed, clip_seed]
        rng = np.random.default_rng([*self._seed, _CAST])
        side = world.sprite_side
        self._cast = [random_object(rng, world.split, side, k % len(CLASSES)) for k in range(2 * len(CLASSES))]
        self._extras = [random_distractor(rng, world.split, side) for _ in range(_NUM_EXTRAS)]
        self._take = lru_cache(maxsize=2)(self._make_take)

    def __iter__(self) -> Iterator[SceneFrame]:
        """All frames, in order."""
        t = 0
        while self.num_frames is None or t < self.num_frames:
            yield self.frame(t)
            t += 1

    def take_of(self, t: int) -> tuple[int, int, int]:
        """Number of the take that frame `t` belongs to, its first frame, and the first frame of the next one."""
        if self.num_frames is None:
            length = max(1, round(TAKE_S * self.fps))
            number = t // length
            return number, number * length, (number + 1) * length
        num_takes = max(1, round(self.num_frames / (TAKE_S * self.fps)))
        number = ((t + 1) * num_takes - 1) // self.num_frames
        return number, number * self.num_frames // num_takes, (number + 1) * self.num_frames // num_takes

    def is_empty(self, t: int) -> bool:
        """Whether frame `t` has no object."""
        _, begin, end = self.take_of(t)
        share = self._world.empty_fraction
        return t >= end - (math.floor(end * share + 1e-9) - math.floor(begin * share + 1e-9))

    def frame(self, t: int) -> SceneFrame:
        """Frame number `t`, with its truth at the middle of its exposure."""
        return self._world.studio.render(*self._stage(t), strict=False)

    def truth(self, t: int) -> SceneTruth:
        """The truth of frame `t` without its picture, several times faster."""
        return self._world.studio.survey(self._stage(t)[1], strict=False)

    def _stage(self, t: int) -> tuple[Look, list[Item]]:
        if t < 0 or (self.num_frames is not None and t >= self.num_frames):
            raise ConfigError(f"the clip has no frame {t}; it has {self.num_frames} from 0")
        number, begin, end = self.take_of(t)
        empty = self.is_empty(t)
        take = self._take(number, begin, end, empty)
        time_s = (t - begin) / self.fps
        short = min(self._world.size)
        pan = self._pan(take, time_s)
        open_s, shut_s = time_s - _SHUTTER / 2 / self.fps, time_s + _SHUTTER / 2 / self.fps
        first, last = self._pan(take, open_s), self._pan(take, shut_s)
        look = replace(
            take.look,
            pan=pan,
            motion=(last[0] - first[0], last[1] - first[1]),
            exposure=take.look.exposure * (1 + 0.15 * math.sin(0.7 * time_s + take.shake[4])),
            grain_seed=take.look.grain_seed + 7919 * (t - begin),
        )
        items: list[Item] = []
        for actor in take.actors:
            x, y = actor.at(time_s, take.length_s)
            first, last = actor.at(open_s, take.length_s), actor.at(shut_s, take.length_s)
            # The nearer (lower) the larger, by 20 % from the far to the near edge of the picture.
            nearness = 0.9 + 0.2 * min(max(y * short / self._world.size[0], 0.0), 1.0)
            items.append(
                Item(
                    actor.sprite,
                    actor.label,
                    actor.identity,
                    (x + pan[0]) * short,
                    (y + pan[1]) * short,
                    nearness * actor.size * short / actor.sprite.diameter,
                    actor.angle + actor.turn * time_s,
                    actor.paintwork.tint,
                    actor.paintwork.order,
                    ((last[0] - first[0]) * short, (last[1] - first[1]) * short),
                )
            )
        return look, items

    def _pan(self, take: _Take, time_s: float) -> tuple[float, float]:
        """How far the camera's sway has moved the picture."""
        a, b, c, d, _ = take.shake
        slow_x, slow_y = 0.03 * math.sin(0.5 * time_s + a), 0.02 * math.sin(0.37 * time_s + b)
        return slow_x + 0.002 * math.sin(6.1 * time_s + c), slow_y + 0.002 * math.sin(7.3 * time_s + d)

    def _make_take(self, number: int, begin: int, end: int, empty: bool) -> _Take:
        world = self._world
        rng = np.random.default_rng([*self._seed, number, int(empty)])
        look = replace(random_look(rng, world.split, world.size), motion=(0.0, 0.0))
        length_s = (end - begin) / self.fps
        actors = [self._extra(rng, index) for index in range(int(rng.integers(0, 5)))]
        if not empty:
            num_objects = int(rng.integers(min(3, world.max_objects), world.max_objects + 1))
            base = number * 16
            objects = [self._anchor(rng, base)]
            for index in range(1, num_objects):
                spots = [self._actor(rng, base + index) for _ in range(_NUM_SPOTS)]
                objects.append(max(spots, key=lambda actor: _room(actor, objects)))
            actors += objects[1:]
            actors = [actors[index] for index in rng.permutation(len(actors))]
            actors.append(objects[0])
        a, b, c, d, e = rng.uniform(0, 2 * np.pi, 5).tolist()
        return _Take(look, tuple(actors), length_s, (a, b, c, d, e))

    def _aspect(self) -> tuple[float, float]:
        """Width and height of the picture in short sides."""
        height, width = self._world.size
        short = min(height, width)
        return width / short, height / short

    def _actor(self, rng: np.random.Generator, identity: int) -> _Actor:
        """An object that lies there, or crosses the picture in the course of the take."""
        sprite, label = self._cast[int(rng.integers(0, len(self._cast)))]
        width, height = self._aspect()
        size = float(np.clip(random_size(rng) * 0.9, 0.09, 0.5))
        x, y = float(rng.uniform(0.08, 0.92)) * width, float(rng.uniform(0.08, 0.92)) * height
        heading = float(rng.uniform(0, 2 * np.pi))
        crossing = rng.random() < 0.6
        speed = float(rng.uniform(0.3, 1.0)) * MAX_SPEED if crossing else 0.0
        return _Actor(
            sprite=sprite,
            label=label,
            identity=identity,
            paintwork=random_paintwork(rng),
            size=size,
            x=x,
            y=y,
            speed=(speed * math.cos(heading), speed * math.sin(heading)),
            sway=float(rng.uniform(0.0, 0.02)) if crossing else 0.0,
            sway_phase=float(rng.uniform(0, 2 * np.pi)),
            angle=random_angle(rng, sprite),
            turn=float(rng.uniform(-1, 1)) * MAX_TURN if crossing and not sprite.upright else 0.0,
        )

    def _anchor(self, rng: np.random.Generator, identity: int) -> _Actor:
        """The object that stays wholly in the picture, before all others."""
        actor = self._actor(rng, identity)
        width, height = self._aspect()
        size = float(np.clip(actor.size, 0.15, 0.4))
        margin = 0.55 * size + 0.14
        return replace(
            actor,
            size=size,
            x=float(rng.uniform(margin, max(margin, width - margin))),
            y=float(rng.uniform(margin, max(margin, height - margin))),
            speed=(0.0, 0.0),
            sway=0.06,
        )

    def _extra(self, rng: np.random.Generator, index: int) -> _Actor:
        """A distractor, lying still."""
        sprite = self._extras[int(rng.integers(0, len(self._extras)))]
        width, height = self._aspect()
        return _Actor(
            sprite=sprite,
            label=DISTRACTOR,
            identity=-1 - index,
            paintwork=random_paintwork(rng),
            size=float(np.exp(rng.uniform(np.log(0.06), np.log(0.35)))),
            x=float(rng.uniform(0, width)),
            y=float(rng.uniform(0, height)),
            speed=(0.0, 0.0),
            sway=0.0,
            sway_phase=0.0,
            angle=float(rng.uniform(0, 2 * np.pi)),
            turn=0.0,
        )


def _room(actor: _Actor, others: list[_Actor]) -> float:
    """Distance to the nearest of the others, less half of both sizes."""
    return min(math.hypot(actor.x - other.x, actor.y - other.y) - (actor.size + other.size) / 2 for other in others)
