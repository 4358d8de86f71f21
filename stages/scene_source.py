"""The generated world as a source: `--source scenes[:seed=1,size=480x640,frames=200]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..pipeline.errors import ConfigError, SourceError
from .scenery.clip import SceneClip
from .scenery.frame import MAX_OBJECTS, SceneTruth
from .scenery.tones import Split
from .scenes import SceneWorld
from .source import SourceOptions
from .sources.picture_reader import Picture
from .sources.replay import ReplaySource

_REMEDY = "give for instance scenes:seed=1,size=480x640,frames=200,fps=25,split=test,objects=8,empty=0.1"


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """What follows `scenes:`. The ranges are those of `SceneWorld` and `SceneWorld.clip`."""

    seed: int = 0
    size: tuple[int, int] = (256, 320)
    """Height and width, pixels."""
    frames: int | None = 250
    """None, written 0, never ends."""
    fps: float = 25.0
    split: Split = "test"
    objects: int = MAX_OBJECTS
    """Most objects in a frame."""
    empty: float = 0.1
    """Share of frames without an object."""

    @staticmethod
    def parse(text: str) -> SceneSettings:
        """From `key=value` pairs with commas between them; empty text is the defaults. Raises SourceError."""
        settings = SceneSettings()
        seen: set[str] = set()
        for pair in filter(None, text.split(",")):
            key, _, value = (part.strip() for part in pair.partition("="))
            if key in seen:
                raise SourceError(f"the scenes' {key!r} is given twice; {_REMEDY}")
            seen.add(key)
            try:
                settings = settings._with(key, value)
            except ValueError as error:
                raise SourceError(f"the scenes' {pair.strip()!r} is not understood; {_REMEDY}") from error
        return settings

    def _with(self, key: str, value: str) -> SceneSettings:
        if key == "seed":
            return replace(self, seed=int(value))
        if key == "size":
            match = re.fullmatch(r"(\d+)x(\d+)", value)
            if match is None:
                raise ValueError(value)
            return replace(self, size=(int(match[1]), int(match[2])))
        if key == "frames":
            return replace(self, frames=int(value) or None)
        if key == "fps":
            return replace(self, fps=float(value))
        if key == "split" and value in ("train", "test"):
            return replace(self, split="train" if value == "train" else "test")
        if key == "objects":
            return replace(self, objects=int(value))
        if key == "empty":
            return replace(self, empty=float(value))
        raise ValueError(key)

    def film(self) -> SceneClip:
        """The clip these settings describe. Raises SourceError."""
        try:
            world = SceneWorld(self.size, self.seed, self.split, self.objects, self.empty)
            return world.clip(0, self.frames, self.fps)
        except ConfigError as error:
            raise SourceError(str(error)) from error


class SceneSource(ReplaySource):
    """Films the generated world and knows the truth. With `options.rate` it is live, as a camera."""

    def __init__(self, settings: SceneSettings, options: SourceOptions) -> None:
        self._clip = settings.film()
        self._stride = options.stride
        super().__init__(_ClipReader(self._clip, settings), options)

    def truth(self, frame: int) -> SceneTruth:
        """What is in packet `frame`, also long after it was captured; the boxes are in pixels of the source image."""
        index = frame * self._stride
        if self._clip.num_frames is not None:
            per_pass = -(-self._clip.num_frames // self._stride)
            index = frame % per_pass * self._stride
        return self._clip.truth(index)


def open_scenes(arguments: str, options: SourceOptions) -> SceneSource:
    """For `register_source("scenes", open_scenes)`. Raises SourceError."""
    return SceneSource(SceneSettings.parse(arguments), options)


class _ClipReader:
    """A clip as pictures in presentation order."""

    def __init__(self, clip: SceneClip, settings: SceneSettings) -> None:
        self._clip = clip
        self._size = settings.size
        self._next = 0
        self.fps = clip.fps
        self.num_pictures = clip.num_frames
        height, width = settings.size
        self.description = f"generated scenes, {height}x{width}, {settings.split} split, seed {settings.seed}"

    def read(self) -> Picture | None:
        if not self.skip():
            return None
        index = self._next - 1
        return Picture(self._clip.frame(index).image, "", round(index * 1e9 / self.fps), self._size)

    def skip(self) -> bool:
        if self._next == self.num_pictures:
            return False
        self._next += 1
        return True

    def rewind(self) -> None:
        self._next = 0

    def name_of(self, index: int) -> str:
        return ""

    def close(self) -> None:
        """Nothing to let go of."""
