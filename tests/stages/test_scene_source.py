"""The generated world as a source."""

from __future__ import annotations

import numpy as np
import pytest

from splitrail.pipeline.errors import SourceError, SplitrailError
from splitrail.stages.scene_source import SceneSettings, SceneSource, open_scenes
from splitrail.stages.scenes import SceneWorld
from splitrail.stages.source import SourceOptions


def test_the_source_gives_frames_and_their_truth() -> None:
    source = open_scenes("seed=2,size=64x80,frames=7,fps=10,objects=3,empty=0", SourceOptions(stride=2))
    film = SceneWorld((64, 80), 2, "test", 3, 0.0).clip(0, 7, 10.0)
    assert (source.num_frames, source.live, source.fps) == (4, False, 5.0)
    for number in range(4):
        packet = source.receive()
        assert packet is not None
        assert packet.frame == number
        assert packet.pts_ns == number * 200_000_000
        assert packet.source_size == (64, 80)
        expected = film.frame(2 * number)
        assert np.array_equal(packet.tensors["image"], expected.image)
        assert np.array_equal(source.truth(number).boxes, expected.boxes)
    assert source.receive() is None
    source.close()


def test_a_looping_source_repeats_its_truth() -> None:
    source = SceneSource(SceneSettings(size=(64, 64), frames=3), SourceOptions(loop=True, max_frames=8))
    pictures = []
    while (packet := source.receive()) is not None:
        pictures.append(packet.tensors["image"])
    assert len(pictures) == 8
    for frame in range(3, 8):
        assert np.array_equal(pictures[frame], pictures[frame - 3])
        assert np.array_equal(source.truth(frame).boxes, source.truth(frame - 3).boxes)


def test_an_endless_source_ends_when_stopped() -> None:
    source = open_scenes("size=64x64,frames=0", SourceOptions(rate=1000))
    assert source.num_frames is None
    assert source.live
    assert source.receive() is not None
    source.stop()
    assert source.receive() is None


def test_source_settings() -> None:
    assert SceneSettings.parse("") == SceneSettings()
    parsed = SceneSettings.parse("seed=7, size=480x640,frames=0,fps=12.5,split=train,objects=3,empty=0.25")
    assert parsed == SceneSettings(7, (480, 640), None, 12.5, "train", 3, 0.25)
    for bad in ("seed", "seed=x", "size=64", "colour=red", "split=val", "fps=", "seed=1,seed=2", "frames=-1.5", "=3"):
        with pytest.raises(SourceError, match="give"):
            SceneSettings.parse(bad)
    for out_of_range in ("size=10x10", "objects=9", "empty=2", "fps=0", "frames=-3", "seed=-1"):
        with pytest.raises(SplitrailError, match="give"):
            open_scenes(out_of_range, SourceOptions())
