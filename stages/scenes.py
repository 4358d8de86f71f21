"""A generated world to film: moving, textured, overlapping solids of eight classes on cluttered, lit, noisy grounds.

Nothing is downloaded and the truth is exact: boxes, masks and keypoints come from the pixels that each object really
covers. Everything follows from `(seed, split, index)`: the same bytes in every process with the same NumPy and OpenCV.
The test split has other grounds, solids, proportions, paint and distractors than the training split; `docs/scenes.md`
has the pinned ranges and distributions.
"""

from __future__ import annotations

import numpy as np

from ..pipeline.errors import ConfigError
from .scenery.clip import SceneClip
from .scenery.frame import MAX_OBJECTS, SceneFrame, SceneTruth
from .scenery.layer import Item
from .scenery.look import Look, random_look
from .scenery.render import Studio
from .scenery.still import NUM_OBJECTS_WEIGHTS, place_still
from .scenery.tones import SPLIT_SEED, Split

_MIN_SIDE, _MAX_SIDE = 64, 4096
_STILL, _EMPTY_PHASE = 5, 6


class SceneWorld:
    """Pictures and clips of one size from one seed.

    Args:
        size: Height and width of the pictures, pixels, 64 to 4096 each.
        seed: Any non-negative number; other seeds are other pictures of the same solids and grounds.
        split: `train` or `test`; they share no ground, solid or paint.
        max_objects: Most objects in a picture, 1 to 8.
        empty_fraction: Share of pictures without any object, 0..1.

    Raises ConfigError for anything else.
    """

    def __init__(
        self,
        size: tuple[int, int] = (256, 320),
        seed: int = 0,
        split: Split = "train",
        max_objects: int = MAX_OBJECTS,
        empty_fraction: float = 0.1,
    ) -> None:
        if min(size) < _MIN_SIDE or max(size) > _MAX_SIDE:
            raise ConfigError(
                f"scenes of {size[0]}x{size[1]} are not made; give a height and width of 64 to 4096 pixels"
            )
        if seed < 0:
            raise ConfigError(f"the seed of the scenes is {seed}; give 0 or more")
        if split not in SPLIT_SEED:
            raise ConfigError(f"the scenes have no split {split!r}; give 'train' or 'test'")
        if not 1 <= max_objects <= MAX_OBJECTS:
            raise ConfigError(f"the scenes cannot have up to {max_objects} objects; give 1 to {MAX_OBJECTS}")
        if not 0 <= empty_fraction <= 1:
            raise ConfigError(f"the share of empty scenes is {empty_fraction}; give a number from 0 to 1")
        self.size = size
        self.seed = seed
        self.split: Split = split
        self.max_objects = max_objects
        self.empty_fraction = empty_fraction
        self.studio = Studio(size, split)
        self.sprite_side = min(256, max(48, min(size) // 2))
        """Photographs of the solids are taken this large, pixels; larger objects are magnified up to 1.2 times."""
        self._phase = float(np.random.default_rng([SPLIT_SEED[split], _EMPTY_PHASE, seed]).random())

    def is_empty(self, index: int) -> bool:
        """Whether still `index` has no object. Of any run of n stills, `n x empty_fraction` are, give or take one."""
        share = self.empty_fraction
        return bool(np.floor((index + 1) * share + self._phase) > np.floor(index * share + self._phase))

    def image(self, index: int) -> SceneFrame:
        """Still number `index`, from 0; each is independent of all others."""
        look, items = self._stage(index)
        return self.studio.render(look, items, strict=True)

    def truth(self, index: int) -> SceneTruth:
        """The truth of still `index` without its picture, several times faster."""
        return self.studio.survey(self._stage(index)[1], strict=True)

    def _stage(self, index: int) -> tuple[Look, list[Item]]:
        if index < 0:
            raise ConfigError(f"there is no scene {index}; the first one is 0")
        rng = np.random.default_rng([SPLIT_SEED[self.split], _STILL, self.seed, index])
        look = random_look(rng, self.split, self.size)
        weights = np.array(NUM_OBJECTS_WEIGHTS[: self.max_objects])
        num_objects = 1 + int(rng.choice(self.max_objects, p=weights / weights.sum()))
        if self.is_empty(index):
            num_objects = 0
        num_distractors = int(rng.integers(0, 5))
        return look, place_still(rng, self.split, self.size, self.sprite_side, num_objects, num_distractors)

    def clip(self, clip_seed: int, num_frames: int | None, fps: float = 25.0) -> SceneClip:
        """A film: the same solids moving under a moving camera. `num_frames` None never ends."""
        return SceneClip(self, clip_seed, num_frames, fps)
