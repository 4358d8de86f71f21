"""Accuracy of a detector in torch on a set of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from ..bench.accuracy import Accuracy, IouType, Truth, evaluate_all, evaluate_boxes
from ..bench.pictures import Picture, Pictures
from ..models.detector import config_of_detector, postprocess_of, split_detector
from ..models.detr import Detr
from ..pipeline.packet import Packet
from ..stages.bundle import PostProcess, PreProcess
from ..stages.detections import Detections
from ..stages.nms_choice import NmsIou, with_nms
from ..stages.postprocess import detr_detections, open_postprocess
from .loader import SampleSet, collate

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


class TruthKeeper:
    """Pictures that are looked at once: their truth, as they were given."""

    def __init__(self, pictures: Pictures) -> None:
        self.classes = pictures.classes
        self.truth: list[Truth] = []
        self.sizes: list[tuple[int, int]] = []
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        picture = self._pictures.picture(index, epoch)
        self.truth.append(Truth(*picture[1:]))
        self.sizes.append((picture.image.shape[0], picture.image.shape[1]))
        return picture


def evaluate_detector(
    model: nn.Module,
    pictures: Pictures,
    num_images: int,
    preprocess: PreProcess,
    *,
    nms_iou: NmsIou | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """`evaluate_kinds` of boxes."""
    return evaluate_kinds(model, pictures, num_images, preprocess, nms_iou=nms_iou, progress=progress)["bbox"]


def evaluate_kinds(
    model: nn.Module,
    pictures: Pictures,
    num_images: int,
    preprocess: PreProcess,
    *,
    nms_iou: NmsIou | None = None,
    progress: Progress | None = None,
) -> dict[IouType, Accuracy]:
    """Boxes of a detector on the first `num_images` pictures, in evaluation mode, in float32; masks and keypoints too where
    both the detector and the pictures have them.

    Raises ConfigError: `nms_iou` for an R-CNN; AccuracyError: pictures with another number of keypoints.
    """
    spec = with_nms(postprocess_of(config_of_detector(model), 0.0), nms_iou)
    if isinstance(model, Detr) and preprocess.size is not None:
        boxes = evaluate_detr(model, pictures, num_images, preprocess.size, nms_iou=spec.nms_iou, progress=progress)
        return {"bbox": boxes}
    return _one_by_one(model, pictures, num_images, preprocess, spec, progress)


@torch.inference_mode()
def _one_by_one(
    model: nn.Module,
    pictures: Pictures,
    num_images: int,
    preprocess: PreProcess,
    spec: PostProcess,
    progress: Progress | None,
) -> dict[IouType, Accuracy]:
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    (whole,) = split_detector(model, (), preprocess)
    postprocess = open_postprocess(spec, 0.0)
    keeper = TruthKeeper(pictures)
    samples = SampleSet(keeper, preprocess)
    detections: list[Detections] = []
    num_images = min(num_images, len(pictures))
    for index in range(num_images):
        sample = samples[0, index]
        pixels = torch.from_numpy(sample.pixels)[None].to(device)
        outputs = whole.compute(pixels, torch.tensor(sample.valid_size, device=device))
        tensors = {name: value.cpu().numpy() for name, value in zip(whole.fp32_names, outputs, strict=True)}
        packet = Packet(index, 0, 0, keeper.sizes[index], tensors=tensors)
        packet.valid_size = sample.valid_size
        postprocess.process(packet)
        detections.append(Detections.from_tensors(packet.tensors))
        if progress is not None:
            progress(index + 1, num_images)
    model.train(was_training)
    return evaluate_all(keeper.truth, detections, len(pictures.classes))


@torch.inference_mode()
def evaluate_detr(
    detr: Detr,
    pictures: Pictures,
    num_images: int,
    size: tuple[int, int],
    *,
    batch_size: int = 8,
    nms_iou: float | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Of the first `num_images` pictures, letterboxed to `size`, through `detr` as it is in evaluation mode, in float32."""
    device = detr.class_embed.weight.device
    was_training = detr.training
    detr.eval()
    keeper = TruthKeeper(pictures)
    detections: list[Detections] = []
    for indices in _chunks(min(num_images, len(pictures)), batch_size):
        batch = collate([SampleSet(keeper, PreProcess(size=size))[0, index] for index in indices]).to(device)
        images = detr.normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
        logits, boxes = (value.float().cpu().numpy() for value in detr(images, batch.valid_size)[-1])
        for index, some_logits, some_boxes in zip(indices, logits, boxes, strict=True):
            detections.append(detr_detections(some_logits, some_boxes, keeper.sizes[index], 0.0, nms_iou))
        if progress is not None:
            progress(len(detections), min(num_images, len(pictures)))
    detr.train(was_training)
    return evaluate_boxes(keeper.truth, detections, len(pictures.classes))


def _chunks(num: int, size: int) -> Iterator[range]:
    for begin in range(0, num, size):
        yield range(begin, min(begin + size, num))
