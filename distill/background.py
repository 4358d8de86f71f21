"""The one place where labels are shifted: label 0 of an R-CNN is the background, annotations begin with an object."""

from __future__ import annotations

from dataclasses import dataclass

from ..bench.pictures import Picture, Pictures

BACKGROUND = "background"
_NOBODY = "N/A"
"""What COCO's annotations call an id that no category has; their ids begin at 1."""


@dataclass
class BackgroundFirst:
    """Pictures for an R-CNN: the classes of `pictures` behind the background, every label one higher.

    Where their label 0 is no category, as in COCO, it becomes the background and the labels stay.
    """

    pictures: Pictures

    def __post_init__(self) -> None:
        self._shift = 0 if self.pictures.classes[0] == _NOBODY else 1
        self.classes = (BACKGROUND, *self.pictures.classes[1 - self._shift :])

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        picture = self.pictures.picture(index, epoch)
        return picture._replace(
            labels=picture.labels + self._shift, ignored_labels=picture.ignored_labels + self._shift
        )


def labelled_for(classes: tuple[str, ...], pictures: Pictures) -> Pictures:
    """`pictures` with the labels of a detector of `classes`: behind the background where its classes begin with one."""
    return BackgroundFirst(pictures) if classes[:1] == (BACKGROUND,) else pictures
