"""Statistics of normalisations taken anew for every width, over images, when the weights no longer change.

Source: Yu and Huang 2019, "Universally Slimmable Networks", section 3.3; published to help Mask and Faster R-CNN and to hurt
EfficientDet (Assine et al. 2021, figure 8).
"""

from __future__ import annotations

import torch
from torch import nn

from ..models.pixels import normalise
from ..models.slimmable import SlimmableBatchNorm2d, set_width, widths_of
from ..pipeline.errors import ConfigError
from .feature_match import Lesson, pixel_size_of
from .features import advance, features
from .loader import SampleSet, collate


@torch.no_grad()
def recalibrate(student: nn.Module, lesson: Lesson, samples: SampleSet, num_images: int, batch_size: int) -> None:
    """Give every width of `student` the mean statistics of the first `num_images` samples, in whole batches, in place.

    `lesson` is what the student has learnt. Only the normalisations that have statistics by width change. Raises ConfigError
    for a student that is not slimmable.
    """
    norms = [module for module in student.modules() if isinstance(module, SlimmableBatchNorm2d)]
    num_images = min(num_images, len(samples.pictures))
    batch_size = min(batch_size, num_images)
    if not norms:
        raise ConfigError(
            "only a slimmable student has statistics by width; recalibrate one of 'splitrail distill slimmable'"
        )
    device = norms[0].weight.device
    widths, momenta = widths_of(student), [norm.momentum for norm in norms]
    was_training = student.training
    student.eval()
    for width in widths:
        set_width(student, width)
        for norm in norms:
            norm.reset_statistics()
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.train()
    place = next(iter(lesson.weights))
    for end in range(batch_size, num_images + 1, batch_size):
        keys = range(end - batch_size, end)
        batch = collate([samples[0, index] for index in keys]).to(device)
        images = normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
        x = advance(student, images, lesson.trunk)
        for width in widths:
            set_width(student, width)
            features(student, x, batch.valid_size, pixel_size_of(batch), (place,), begin=lesson.trunk)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    set_width(student, 1.0)
    student.train(was_training)
