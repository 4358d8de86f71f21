"""Pictures that are looked at many times: made once, in memory from then on."""

from __future__ import annotations

from ..bench.pictures import Picture, Pictures


class KeptPictures:
    """`pictures`, each kept once it was made. For a few hundred that take longer to make than to look at."""

    def __init__(self, pictures: Pictures) -> None:
        self.classes = pictures.classes
        self._pictures = pictures
        self._made: dict[tuple[int, int], Picture] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        if (index, epoch) not in self._made:
            self._made[index, epoch] = self._pictures.picture(index, epoch)
        return self._made[index, epoch]
