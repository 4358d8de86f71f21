"""Images kept for the sink."""

from __future__ import annotations

from threading import Thread

import numpy as np

from splitrail.pipeline.packet import Packet
from splitrail.stages.gallery import Gallery


def packet(frame: int, num_bytes: int = 300) -> Packet:
    image = np.full((num_bytes // 30, 10, 3), frame % 256, np.uint8)
    return Packet(frame, 0, 0, image.shape[:2], tensors={"image": image})


def test_take_gives_the_frame_once_and_forgets_older_ones() -> None:
    gallery = Gallery()
    for frame in (0, 1, 2, 3):
        gallery.keep(packet(frame))
    image = gallery.take(2)
    assert image is not None
    assert image[0, 0, 0] == 2
    assert gallery.take(2) is None
    assert gallery.take(1) is None
    assert len(gallery) == 1
    assert gallery.take(9) is None
    assert len(gallery) == 0


def test_memory_is_bounded_and_what_was_given_up_is_counted() -> None:
    gallery = Gallery(max_bytes=1000)
    for frame in range(10):
        gallery.keep(packet(frame))
    assert len(gallery) == 3
    assert gallery.num_given_up == 7
    assert gallery.take(6) is None
    assert gallery.take(7) is not None


def test_an_image_larger_than_the_bound_is_still_kept_alone() -> None:
    gallery = Gallery(max_bytes=10)
    gallery.keep(packet(0))
    gallery.keep(packet(1))
    assert len(gallery) == 1
    assert gallery.take(1) is not None


def test_packets_without_image_are_nothing() -> None:
    gallery = Gallery()
    gallery.keep(Packet(0, 0, 0, (1, 1)))
    assert len(gallery) == 0


def test_keeping_and_taking_from_two_threads() -> None:
    gallery = Gallery(max_bytes=300 * 5000)
    taken = []

    def keep() -> None:
        for frame in range(2000):
            gallery.keep(packet(frame))

    thread = Thread(target=keep)
    thread.start()
    frame = 0
    while frame < 2000:
        image = gallery.take(frame)
        if image is not None:
            taken.append(int(image[0, 0, 0]))
            frame += 1
    thread.join()
    assert taken == [frame % 256 for frame in range(2000)]
    assert len(gallery) == 0
