"""The configuration of a run: what `splitrail run` builds from its options and `splitrail rank --config` reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import pydantic

from ..pipeline.errors import ConfigError
from ..pipeline.local_channel import Policy
from ..pipeline.placement import Placement
from ..stages.bundle import Bundle, WireType
from ..stages.nms_choice import NmsIou, parse_nms_iou
from .adapt_config import AdaptConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIGS = Path(__file__).parent / "configs"
BUNDLES = Path(__file__).parent.parent / "bundles"
DEFAULT_BUNDLE = "demo"


class SourceConfig(pydantic.BaseModel):
    """Where frames come from."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    uri: str
    """Video file, folder, glob, list file, camera index, RTSP or HTTP URL."""
    stride: int = pydantic.Field(1, ge=1)
    """Every n-th frame."""
    max_frames: int | None = pydantic.Field(None, ge=1)
    loop: bool = False
    """Start again at the end; needs max_frames or an interrupt to end."""
    rate_fps: float | None = pydantic.Field(None, gt=0)
    """Play a file at this fixed rate, as a camera would; it then counts as live."""


class SinkConfig(pydantic.BaseModel):
    """What a run writes besides detections.jsonl."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    video: bool | None = None
    """None: where the sink is beside the source, which has the images."""
    frames: bool = False
    csv: bool = False
    coco: bool = False
    coco_annotations: str | None = None
    """Annotation file that maps file names to image ids for the COCO results."""
    show: bool = False


class RunConfig(pydantic.BaseModel):
    """One run. As TOML: these keys, `source` and `sink` as tables, `placement` a name, a path, or a table."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    source: SourceConfig
    sink: SinkConfig = SinkConfig()
    out: str
    """Folder on rank 0's host."""
    bundle: str = DEFAULT_BUNDLE
    """Folder of the bundle on rank 0's host, or the name of an embedded one."""
    placement: str | dict[str, Any] = "backbone"
    source_rank: int | None = None
    """Puts source and sink on this rank."""
    sink_rank: int | None = None
    """Puts the sink on this rank; beside the source by default."""
    engine: str = "auto"
    """auto, onnxruntime, openvino, torch, tensorrt; a precision may follow after a colon: openvino:bf16."""
    device: str = "cpu"
    """For the torch engine cpu or cuda, for tensorrt cuda; cuda:1 is the second GPU."""
    threads: int = pydantic.Field(0, ge=0)
    """Compute threads of a rank; 0: the cores of its host shared among the ranks there."""
    adapt: AdaptConfig | None = None
    """A setting for each frame, chosen to keep up a target; None: all frames alike."""
    wire: WireType = "fp16"
    image_wire: Literal["jpeg", "raw"] = "raw"
    """How an image crosses ranks where the placement itself has no encode-jpeg; `raw` is lossless."""
    jpeg_quality: int = pydantic.Field(90, ge=1, le=100)
    overlap: Literal["full", "naive", "blocking"] = "full"
    policy: Policy | Literal["auto"] = "auto"
    """auto: drop-oldest for live sources, wait for files."""
    single_stream: bool = False
    """A frame is captured when the one before has its result; needs the sink beside the source."""
    score_threshold: float | None = pydantic.Field(None, ge=0, le=1)
    """None: the bundle's."""
    nms_iou: NmsIou | None = None
    """Of boxes of one class that overlap more, in (0, 1], a DETR's worse ones are suppressed; off: none; None: the bundle's."""
    filter: bool | None = None
    """Whether the bundle's neural filter ends empty frames early; None: where it has one."""
    filter_threshold: float | None = pydantic.Field(None, ge=0, le=1)
    """A frame whose probability to have an object is below is empty; None: the bundle's."""
    stall_timeout_s: float = pydantic.Field(60.0, gt=0)
    payload_crc: bool = False
    hosts: tuple[str, ...] = ()
    """Host name by rank; each rank checks that it is there. Empty: not checked."""
    cidr: str | None = None
    """Network that carries the messages, for the wire proof."""
    eager_limit_bytes: int = pydantic.Field(65_536, ge=1024)
    """What MPI was told to send without asking first, bytes."""
    measure_power: bool = False
    """Sample the power meters of each machine while frames stream, after an idle baseline of a few seconds."""
    command: str = ""
    """The command line that started the run, for the record."""

    @pydantic.field_validator("nms_iou", mode="before")
    @classmethod
    def _parse_nms_iou(cls, value: object) -> object:
        try:
            return None if value is None else parse_nms_iou(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @staticmethod
    def load(path: str | Path) -> RunConfig:
        """From a TOML or JSON file. Raises ConfigError naming the file, the key and what was expected."""
        return RunConfig.check(read_mapping(Path(path)), str(path))

    @staticmethod
    def check(raw: object, where: str) -> RunConfig:
        """From a mapping; `where` names it in errors."""
        try:
            config = RunConfig.model_validate(raw)
            if config.device != "cpu" and config.engine == "auto":
                raise ConfigError(
                    f"{where}: engine auto is decided without a device, and the device is {config.device}; name the engine, "
                    "torch or tensorrt"
                )
            rate = config.source.rate_fps
            if rate is not None and rate * config.stall_timeout_s <= 1:
                raise ConfigError(
                    f"{where}: at {rate:g} FPS a frame comes every {1 / rate:g} s, and a run ends when nothing has moved for "
                    f"{config.stall_timeout_s:g} s; give --stall-timeout more than {1 / rate:g}, or a higher --rate"
                )
            return config
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                parent = RunConfig.model_fields
                if first["loc"][0] == "source" and len(first["loc"]) > 1:
                    parent = SourceConfig.model_fields
                elif first["loc"][0] == "sink" and len(first["loc"]) > 1:
                    parent = SinkConfig.model_fields
                elif first["loc"][0] == "adapt" and len(first["loc"]) > 1:
                    parent = AdaptConfig.model_fields
                raise ConfigError(f"{where}: unknown key '{key}'; the keys are {', '.join(sorted(parent))}") from error
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where}: '{key}': {message[0].lower()}{message[1:]}") from error

    def with_placement(self) -> RunConfig:
        """The same with the placement itself in place of its file, which other hosts do not have."""
        if isinstance(self.placement, dict):
            return self
        placement = load_placement(self.placement)
        segments = [{"rank": segment.rank, "stages": list(segment.stages)} for segment in placement.segments]
        return self.model_copy(update={"placement": {"name": placement.name, "segments": segments}})

    def is_filtered(self, bundle: Bundle) -> bool:
        """Whether this run filters. Raises ConfigError: a threshold is given for no filter."""
        if self.filter is False and self.filter_threshold is not None:
            raise ConfigError("--filter-threshold is given and --no-filter too; leave one of them out")
        if self.filter is None:
            return bundle.filter is not None or self.filter_threshold is not None
        return self.filter

    def resolve_placement(self) -> Placement:
        """The placement this run asks for, its source and sink moved as asked."""
        if isinstance(self.placement, dict):
            placement = Placement.from_mapping(self.placement, "placement")
        else:
            placement = load_placement(self.placement)
        if self.source_rank is not None:
            _check_rank(self.source_rank, placement, "source_rank")
            placement = placement.with_source(self.source_rank)
        if self.sink_rank is not None:
            _check_rank(self.sink_rank, placement, "sink_rank")
            placement = placement.with_sink(self.sink_rank)
        if self.single_stream and placement.source_rank != placement.sink_rank:
            raise ConfigError(
                f"single_stream needs source and sink on one rank and they are on {placement.source_rank} and "
                f"{placement.sink_rank}; leave out sink_rank"
            )
        return placement


def read_mapping(path: Path) -> dict[str, Any]:
    """What a TOML or JSON file says. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the right file with --config") from error
    try:
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} does not parse: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a table of keys")
    return raw


def load_placement(name: str) -> Placement:
    """A placement by the name of a shipped one or the path of a TOML file."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        shipped = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml") if _is_placement(file)))
        raise ConfigError(
            f"no placement {name!r} ({path}: {error.strerror}); use one of {shipped}, or give a .toml file"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} does not parse: {error}") from error
    return Placement.from_mapping(raw, str(path))


def bundle_folder(name: str) -> Path:
    """A bundle by its folder, or by the name of an embedded one."""
    path = Path(name)
    embedded = BUNDLES / name
    return embedded if not path.exists() and "/" not in name and embedded.is_dir() else path


def _is_placement(path: Path) -> bool:
    return "segments" in tomllib.loads(path.read_text(encoding="utf-8"))


def _check_rank(rank: int, placement: Placement, key: str) -> None:
    if not 0 <= rank < placement.num_ranks:
        raise ConfigError(
            f"{key} {rank} does not exist: placement {placement.name} has ranks 0 to {placement.num_ranks - 1}"
        )
