"""Figures of the papers that a table of results is held against: of other detectors on other images, never measured here."""

from __future__ import annotations

from typing import Literal, NamedTuple

Part = Literal["distillation", "slimmable"]
PARTS: tuple[Part, ...] = ("distillation", "slimmable")


class Published(NamedTuple):
    """One statement."""

    what: str
    values: str
    source: str


PUBLISHED: dict[Part, tuple[Published, ...]] = {
    "distillation": (
        Published("DETR R50; its R34 by SSKD", "42.0; 41.2 AP", "Titarsolej 2021"),
        Published(
            "Mask R-CNN R50, C = 3, boxes: teacher; HND; GHND; GHND at 16 bits; at 8 bits",
            "0.379; 0.350; 0.370; 0.370; 0.369 mAP",
            "Matsubara and Levorato 2020",
        ),
        Published(
            "Keypoint R-CNN R50, C = 3, keypoints: teacher; HND; GHND; GHND at 16 bits; at 8 bits",
            "0.650; 0.579; 0.634; 0.634; 0.628 mAP",
            "Matsubara and Levorato 2020",
        ),
        Published(
            "neural filter of Keypoint R-CNN: AUC; with it at threshold 0.1 and 8 bits, boxes; keypoints",
            "0.919; 0.513; 0.619 mAP",
            "Matsubara and Levorato 2020",
        ),
    ),
    "slimmable": (
        Published("EfficientDet-D1; D2, teachers", "0.388; 0.422 mAP", "Assine et al. 2021"),
        Published("D2, C = 12 to 48, trained one by one, 8 bits", "0.405 to 0.416 mAP", "Assine et al. 2021"),
        Published(
            "D2, one slimmable set, 8 channels (73,728 bytes); 44 channels (405,504 bytes)",
            "0.371; 0.408 mAP",
            "Assine et al. 2021",
        ),
        Published(
            "computation-configurable (figure 6)",
            "modest loss down to a threshold; the left tail of C = 48 from a quarter on drops sharply",
            "Assine et al. 2021",
        ),
        Published("4 bits instead of 8 (figure 7)", "relatively modest loss for half the bytes", "Assine et al. 2021"),
        Published(
            "statistics taken anew for every width (figure 8)",
            "helps Faster and Mask R-CNN, hurts EfficientDet",
            "Assine et al. 2021",
        ),
    ),
}
"""Part of the table -> what stands beside it."""
