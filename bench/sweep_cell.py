"""One cell of a sweep: everything that is set for a run, and the name that follows from it."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import pydantic

from .scenario import Scenario

RANDOM_WEIGHTS = "random weights"
_NAMED = ("placement", "detector", "bundle", "cut", "size", "wire", "encoding", "link_rate", "scenario")
"""What a cell's folder is named by, beside its checksum."""
_IMAGES_CROSS = ("offload", "transformer")


class Cell(pydantic.BaseModel):
    """Settings of one configuration. Every key may be an axis of the grid."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    placement: str = "backbone"
    """A shipped one by name (full, backbone, transformer, offload, three-ranks) or a .toml file."""
    detector: str = ""
    """A named detector, exported once for the sweep; or give `bundle`."""
    cut: str = ""
    """Of `detector`: c5, projection, memory, several joined by commas, or none."""
    size: str = ""
    """Of `detector`: HxW of the network's input, or dynamic."""
    weights: str = ""
    """Of `detector`: a file or folder, or hub; empty is random ones. Set by the sweep's table [weights]."""
    bundle: str = ""
    """Folder of a bundle, or the name of an embedded one."""
    source: str = "scenes"
    frames: int | None = pydantic.Field(None, ge=1)
    """The first so many; None takes all."""
    scenario: Scenario = "offline"
    rate_fps: float | None = pydantic.Field(None, gt=0)
    """Of the scenario camera."""
    engine: str = "auto"
    device: str = "cpu"
    threads: int = pydantic.Field(0, ge=0)
    """Compute threads of a rank; 0: its share of the host's cores."""
    wire: str = "fp16"
    """What features travel as."""
    encoding: str = "raw"
    """What images travel as where they cross ranks: raw, or jpeg:Q with a quality of 1 to 100."""
    filter: bool | None = None
    """Whether the bundle's neural filter ends empty frames at the edge; None: where it has one."""
    overlap: Literal["full", "naive", "blocking"] = "full"
    link_rate: str = ""
    """Of the link between two hosts on this machine, for instance 100mbit; empty, and no delay: no such hosts."""
    link_delay: str = ""
    """One way, for instance 10ms."""
    score_threshold: float | None = pydantic.Field(None, ge=0, le=1)
    measure_power: bool = False
    figure: str = ""
    """Cells of one name share the report's figures, whatever their detector; empty: those of the detector."""

    _placement_sha256: str = pydantic.PrivateAttr("")
    """Of the .toml file, when the cell was made; empty for a shipped placement."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Cell:
        if bool(self.detector) == bool(self.bundle):
            raise ValueError("give either 'detector' or 'bundle'")
        if self.bundle and (self.cut or self.size):
            raise ValueError("'cut' and 'size' are of a 'detector'; a bundle has its own")
        if (self.scenario == "camera") != (self.rate_fps is not None):
            raise ValueError("'rate_fps' is needed by the scenario camera, and only by it")
        match = re.fullmatch(r"raw|jpeg:(\d+)", self.encoding)
        if match is None or (match[1] is not None and not 1 <= int(match[1]) <= 100):
            raise ValueError(f"'encoding' is raw, or jpeg:Q with Q from 1 to 100, not {self.encoding!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _read_placement(self) -> Cell:
        # A file that cannot be read is refused when the placement is.
        if self.placement.endswith(".toml"):
            with contextlib.suppress(OSError):
                self._placement_sha256 = hashlib.sha256(Path(self.placement).read_bytes()).hexdigest()
        return self

    @property
    def jpeg_quality(self) -> int | None:
        """None where images travel raw."""
        return None if self.encoding == "raw" else int(self.encoding.partition(":")[2])

    @property
    def has_link(self) -> bool:
        """Whether it runs on two hosts on this machine."""
        return bool(self.link_rate or self.link_delay)

    @property
    def settings(self) -> dict[str, Any]:
        """As JSON values."""
        return self.model_dump(mode="json")

    @property
    def folder(self) -> str:
        """Name of its folder: what tells cells apart, and a checksum over all settings and the placement's file."""
        told = self.model_dump_json() + self._placement_sha256
        checksum = hashlib.sha256(told.encode()).hexdigest()[:10]
        images_cross = self.placement.startswith(_IMAGES_CROSS)
        names = [name for name in _NAMED if name != "encoding" or images_cross]
        words = [str(value) for name in names if (value := getattr(self, name)) not in ("", "offline")]
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(words).replace("_", "-"))
        return f"{slug.strip('-.')[-100:]}-{checksum}"
