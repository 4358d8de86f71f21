"""A slimmable student learns a teacher's features at several widths in each step.

Source: Yu and Huang 2019, "Universally Slimmable Networks and Improved Training Techniques", algorithm 1, with the teacher's
features as the target of every width in place of the widest one's outputs (Assine et al. 2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.slimmable import set_width, widths_of
from .feature_match import FeatureMatcher, pixel_size_of
from .features import advance, features
from .learner import Batch

NARROWEST, WIDEST = "narrowest", "widest"
"""Keys of the relative difference at the last place, at those widths."""


def draw_widths(widths: Sequence[float], num_widths: int) -> tuple[float, ...]:
    """The sandwich rule: of increasing `widths` the first, `num_widths` - 2 random ones between, and the last, increasing.

    All of them where there are no more. Draws from torch's generator.
    """
    between = torch.randperm(max(0, len(widths) - 2))[: num_widths - 2] + 1
    return tuple(sorted({widths[0], widths[-1], *(widths[int(index)] for index in between)}))


class SandwichMatcher(FeatureMatcher):
    """A `FeatureMatcher` whose student has several widths: one pass of the teacher is the target of `num_widths` of them."""

    def __init__(self, teacher: nn.Module, student: nn.Module, num_widths: int) -> None:
        super().__init__(teacher, student)
        self.num_widths = num_widths

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """As `FeatureMatcher.forward`: "loss" is the sum over the widths that were drawn, the others are means over them.

        Besides, `NARROWEST` and `WIDEST`. The student is left at width 1.
        """
        lesson, student = self.lesson, self.student
        x, wanted = self.wanted(batch)
        if lesson.trunk != lesson.shared:
            x = advance(student, x, lesson.trunk)
        every = widths_of(student)
        losses: list[dict[str, Tensor]] = []
        try:
            for width in draw_widths(every, self.num_widths):
                set_width(student, width)
                found = features(student, x, batch.valid_size, pixel_size_of(batch), tuple(wanted), begin=lesson.trunk)
                losses.append(self.compare(found, wanted, batch))
        finally:
            set_width(student, 1.0)
        last = list(wanted)[-1]
        return {
            "loss": torch.stack([each["loss"] for each in losses]).sum(),
            **{place: torch.stack([each[place] for each in losses]).mean() for place in wanted},
            NARROWEST: losses[0][last],
            WIDEST: losses[-1][last],
        }
