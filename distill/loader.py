"""Batches in an order that depends on seed and epoch alone, made by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..bench.pictures import Pictures
from ..pipeline.packet import Packet
from ..stages.bundle import PreProcess
from ..stages.preprocess import Preprocess
from .augment import augment
from .crew import Crew
from .learner import Batch
from .recipe import DataRecipe
from .targets import Targets


class Sample(NamedTuple):
    """One image as the network reads it, with its truth."""

    pixels: npt.NDArray[np.uint8 | np.float32]
    """[H, W, 3] RGB 0..255, with the padding that the preprocessing adds; uint8, float32 for an R-CNN."""
    valid_size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    """[N, 4] cxcywh, relative to the valid part."""
    labels: npt.NDArray[np.int32]


@dataclass
class SampleSet(Dataset[Sample]):
    """Samples by (epoch, index): the same for the same numbers in whichever process. Without `changes` nothing is augmented."""

    pictures: Pictures
    preprocess: PreProcess
    seed: int = 0
    changes: DataRecipe | None = None

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        picture = self.pictures.picture(index, epoch)
        if self.changes is not None:
            rng = np.random.default_rng([self.seed, epoch, index])
            wanted = self.changes
            picture = augment(picture, rng, flip=wanted.flip, crop=wanted.crop, colour=wanted.colour)
        height, width = picture.image.shape[:2]
        packet = Packet(index, 0, 0, (height, width), tensors={"image": picture.image})
        Preprocess(self.preprocess).process(packet)
        boxes = picture.boxes / np.array([width, height, width, height], np.float32)
        centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        pixels = packet.tensors["pixels"][0].astype(self.preprocess.pixel_dtype, copy=False)
        return Sample(pixels, packet.valid_size, centred.astype(np.float32), picture.labels)


class _Order(Sampler[list[tuple[int, int]]]):
    """Keys of one process's shares of the batches of one epoch; an incomplete last one is left out."""

    def __init__(self, num_samples: int, batch_size: int, seed: int, crew: Crew) -> None:
        self.num_batches = max(1, num_samples // batch_size)
        self._num_samples, self._batch_size, self._seed = num_samples, min(batch_size, num_samples), seed
        self._crew = crew
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._num_samples).tolist()
        for number in range(self.first_batch, self.num_batches):
            begin = number * self._batch_size
            yield [
                (self.epoch, index)
                for index in order[begin : begin + self._batch_size][self._crew.rank :: self._crew.size]
            ]


class TrainingBatches:
    """All batches of an epoch, shuffled; of several processes each has its share. `close` ends the worker processes."""

    def __init__(self, samples: SampleSet, batch_size: int, num_workers: int, crew: Crew | None = None) -> None:
        self._order = _Order(len(samples.pictures), batch_size, samples.seed, crew or Crew())
        self.num_batches = self._order.num_batches
        """In an epoch."""
        workers: dict[str, Any] = {}
        if num_workers:
            # Not forked: torch's and OpenCV's threads do not survive it.
            workers = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": 4}
        self._loader: DataLoader[Sample] | None = DataLoader(
            samples,
            batch_sampler=self._order,
            num_workers=num_workers,
            collate_fn=collate,
            worker_init_fn=_begin_worker,
            # Else it would draw from torch's own at every begin of an epoch, and at a resumption once more.
            generator=torch.Generator(),
            **workers,
        )

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Batches number `first_batch` and on of that epoch."""
        assert self._loader is not None
        self._order.epoch, self._order.first_batch = epoch, first_batch
        yield from self._loader

    def close(self) -> None:
        """End the workers."""
        self._loader = None


def collate(samples: list[Sample]) -> Batch:
    """Samples to a batch, the smaller ones padded at the bottom and right to the largest."""
    height, width = (max(sample.pixels.shape[axis] for sample in samples) for axis in (0, 1))
    pixels = np.zeros((len(samples), height, width, 3), samples[0].pixels.dtype)
    for index, sample in enumerate(samples):
        pixels[index, : sample.pixels.shape[0], : sample.pixels.shape[1]] = sample.pixels
    return Batch(
        torch.from_numpy(pixels),
        torch.tensor([sample.valid_size for sample in samples], dtype=torch.int64),
        Targets.of([sample.boxes for sample in samples], [sample.labels for sample in samples]),
    )


def _begin_worker(number: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
