"""A host's profile: how long it takes for each stage, as TOML. Measured by `splitrail bench profile`, or published by others.

    schema = 1
    host = "edge"
    published = ""                    # where the times come from; empty: measured on that host
    machine = "4d0f..."               # the same for hosts that are one machine; empty: nobody else's
    num_cpus = 2
    threads = 1
    engine = "openvino:fp32"

    [images]                          # of the source that was measured, bytes of one image as JPEG
    size = [432, 768]
    jpeg_bytes = 31000                # the image itself
    pixels_jpeg_bytes = 45000         # the network's input

    [detectors.detr-resnet-50]
    bundle = "9f..."                  # the bundle's checksum; empty where there is none
    graphs = ["backbone", "transformer"]

    [detectors.detr-resnet-50.stages]
    backbone = { solo_ms = 480.1, spread_ms = 3.0, num = 9, coload_ms = 497.0 }

    [[detectors.detr-resnet-50.cuts]] # published profiles only: a bundle knows its own
    name = "c5"
    after = "backbone"
    shape = [1, 2048, 25, 34]         # or bytes = { uint8 = 172000 }

Stages are the graphs by name, `GRAPH@0.25` where another one stands in for it at that width, with `/fp16` and `/uint8` behind it
where a graph also makes that wire type; `GRAPH/uint4/encode`, which packs what it gives; `GRAPH/fp16/decode`,
which turns it back into float32 on the other side; `capture`, `preprocess`, `postprocess`, `encode-jpeg`, `decode-jpeg`, and the
last two with `/pixels` for the network's input; `network`, all graphs in one go, where it is not the sum of them. Graphs must
be there; of the rest a published profile may lack any: they count 0 ms.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from ..pipeline.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUBLISHED = Path(__file__).parent / "profiles"
NETWORK = "network"
_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "uint8": 1}


class ProfileError(UsageError):
    """A profile that is not there, does not parse, or does not fit the bundle."""


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class StageTime(_Model):
    """Service time of one stage, one frame, ms."""

    solo_ms: float = pydantic.Field(ge=0, allow_inf_nan=False)
    """Median with nothing else on the machine."""
    mean_ms: float | None = pydantic.Field(default=None, ge=0)
    """What counts for the throughput. None: the median does."""
    spread_ms: float | None = pydantic.Field(default=None, ge=0)
    """Between the quartiles."""
    num: int | None = pydantic.Field(default=None, ge=1)
    """Frames that were timed."""
    coload_ms: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    """Median while a second process on the machine computes the other side of the cut. None: not measured."""
    source: str = ""
    """Of a published time: table, or how it was derived."""


class PublishedCut(_Model):
    """Where a published detector may be cut, and what then travels."""

    name: str
    after: str
    """The last graph before the cut."""
    shape: tuple[int, ...] | None = None
    """Of the one tensor that travels."""
    bytes: dict[Literal["fp32", "fp16", "uint8"], pydantic.PositiveInt] = {}
    """Wire type -> payload of a frame, where no shape can be named."""
    source: str = ""

    @pydantic.model_validator(mode="after")
    def _has_one(self) -> PublishedCut:
        if (self.shape is None) == (not self.bytes):
            raise ValueError("a cut has either a shape or bytes")
        return self

    def payloads(self) -> dict[str, int]:
        """Wire type -> payload, bytes."""
        if self.shape is None:
            return {str(wire): size for wire, size in self.bytes.items()}
        return {wire: size * int(np.prod(self.shape)) for wire, size in _ELEMENT_BYTES.items()}


class DetectorTimes(_Model):
    """One detector on this host."""

    bundle: str = ""
    graphs: tuple[str, ...] = pydantic.Field(min_length=1)
    stages: dict[str, StageTime]
    cuts: tuple[PublishedCut, ...] = ()


class ImageFacts(_Model):
    """Images of the source."""

    source: str = ""
    size: tuple[pydantic.PositiveInt, pydantic.PositiveInt]
    """Height and width of the source's images, pixels."""
    jpeg_quality: int | None = None
    jpeg_bytes: pydantic.PositiveInt | None = None
    """Mean of the source's images."""
    pixels_jpeg_bytes: pydantic.PositiveInt | None = None
    """Mean of the network's inputs."""


class HostProfile(_Model):
    """What a host takes for the stages of one or more detectors."""

    schema_version: Literal[1] = pydantic.Field(alias="schema")
    host: str
    published: str = ""
    machine: str = ""
    num_cpus: pydantic.PositiveInt | None = None
    threads: pydantic.PositiveInt | None = None
    engine: str = ""
    device: str = "cpu"
    created: str = ""
    """UTC."""
    environment: dict[str, Any] = {}
    images: ImageFacts | None = None
    detectors: dict[str, DetectorTimes]

    @staticmethod
    def load(name: str | os.PathLike[str]) -> HostProfile:
        """From a TOML file, or one of the published ones by its name.

        Raises ProfileError: not there, not TOML, an unknown key, a value that is none, or another schema version.
        """
        path = Path(name)
        if not path.suffix and not path.exists():
            path = PUBLISHED / f"{path.name}.toml"
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            known = ", ".join(published_profiles())
            raise ProfileError(
                f"no profile {os.fspath(name)!r} ({error.strerror}); measure one with 'splitrail bench profile --out "
                f"FILE.toml', or take a published one: {known}"
            ) from error
        except ValueError as error:
            raise ProfileError(f"the profile {path} is not TOML ({error}); measure it again") from error
        if raw.get("schema") != 1:
            raise ProfileError(
                f"the profile {path} has schema {raw.get('schema')!r} and this splitrail reads 1; measure it again"
            )
        try:
            return HostProfile.model_validate(raw)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise ProfileError(f"the profile {path} has the unknown key '{key}'; take it out") from error
            raise ProfileError(
                f"the profile {path} is not complete: '{key}': {first['msg'].lower()}; mend it or measure it again"
            ) from error

    def save(self, path: Path) -> None:
        """Write it as TOML, whole or not at all. Raises ProfileError."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text("".join(_toml(self.model_dump(mode="json", by_alias=True))), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ProfileError(f"{path} cannot be written ({error.strerror}); give another --out") from error

    def detector(self, name: str, bundle: str = "") -> DetectorTimes:
        """The times of a detector; `bundle` is the checksum that a measured profile must be of.

        Raises ProfileError: no such detector here, or another bundle was measured.
        """
        times = self.detectors.get(name)
        if times is None:
            raise ProfileError(
                f"the profile of {self.host} has no detector {name!r}; it has {', '.join(sorted(self.detectors))}: "
                "name one of these, or measure this one with 'splitrail bench profile'"
            )
        if bundle and times.bundle != bundle:
            raise ProfileError(
                f"the profile of {self.host} was measured with another bundle (checksum {times.bundle[:12] or 'none'}, "
                f"yours is {bundle[:12]}); measure this one with 'splitrail bench profile'"
            )
        return times


def published_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in PUBLISHED.glob("*.toml"))


def _toml(table: Mapping[str, Any], *path: str) -> Iterator[str]:
    """A mapping of what JSON has, None left out; mappings of mappings become tables, all others are inline."""
    nested = {key: value for key, value in table.items() if isinstance(value, dict) and len(path) < 3 and value}
    for key, value in table.items():
        if value is not None and key not in nested:
            yield f"{_key(key)} = {_value(value)}\n"
    for key, value in nested.items():
        yield f"\n[{'.'.join(map(_key, (*path, key)))}]\n"
        yield from _toml(value, *path, key)


def _key(text: str) -> str:
    return (
        text
        if text.replace("-", "").replace("_", "").isalnum() and text.isascii()
        else json.dumps(text, ensure_ascii=False)
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(k))} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
