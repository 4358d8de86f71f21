"""A detector as a folder: `bundle.json` beside one ONNX graph per stage.

Conventions that every graph keeps:

* The first graph reads `pixels` uint8 (float32 for an R-CNN) [1, H, W, 3] RGB 0..255 (normalisation is part of the graph)
  and, like every later one, `valid_size` int64 [2]: height and width of the part of `pixels` that shows the image; the rest
  is padding. Masks and positions are derived from it inside the graphs, so they never travel.
* A tensor T between two graphs is float32 `T`. The graph that makes it also offers T_fp16 float16, and T_uint8 uint8 with
  T_scale float32 [1] and T_zero_point uint8 [1] (`codec.py` has the arithmetic), so weights are stored once and a run asks
  for the outputs its wire type needs (`WIRE_SUFFIXES`). The graph that reads it takes float32 `T`.
* The last graph of a DETR ends in `pred_logits` float32 [1, queries, classes + 1], no-object last, and `pred_boxes`
  float32 [1, queries, 4], cxcywh in [0, 1] relative to the valid part. That of an R-CNN ends in `det_boxes` float32 [N, 4]
  xyxy in pixels of its input, `det_scores` float32 [N], `det_labels` int64 [N], best first, and where it makes them
  `det_masks` float32 [N, 28, 28] in [0, 1] or `det_heatmaps` float32 [N, K, 56, 56], both over the box.
* A neural filter (`NeuralFilter`) is a graph beside the chain: it reads one float32 wire tensor T of the head and gives
  `objectness` float32 [1], the probability in [0, 1] that the frame has any object. A head with a filter is usually two
  graphs, the stem and the rest (cut `l0`), so that the rest need not run for an empty frame; `num_head_stages` is then 2.
* `golden.npz` holds, per golden frame i, `i/pixels`, `i/valid_size` and every fp32 wire tensor and final output as
  `i/NAME`, `objectness` included, computed by torch in fp32 at export. What a narrower width computes otherwise is there as
  well, as `i/NAME@0.25`.
* An adaptive bundle has one set of weights at several widths. `Bundle.stages` is width 1; `Bundle.narrower` lists, per width
  below, the graphs that stand in for those of the same names. Tensors have the same names at every width and fewer channels.
  `Bundle.at_width` gives one width as an ordinary bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from ..pipeline.errors import BundleError, ConfigError
from ..pipeline.packet import Array
from .measured_accuracy import MeasuredAccuracy as MeasuredAccuracy
from .wire_type import WIRE_SUFFIXES as WIRE_SUFFIXES
from .wire_type import WireType as WireType

SCHEMA_VERSION = 1
_RCNN_STRIDE = 32
MANIFEST = "bundle.json"


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class GraphTensor(_Model):
    """One input or output of a graph."""

    name: str
    dtype: Literal["float32", "float16", "uint8", "int8", "int32", "int64"]
    shape: tuple[int | str, ...]
    """A string is a dimension that varies by frame, for instance "height"."""


class GraphStage(_Model):
    """One graph of the chain."""

    name: str
    """What it computes: backbone, transformer, encoder, decoder, ..."""
    graph: str
    """File name of the ONNX graph in the bundle."""
    sha256: str
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    wire_tensors: tuple[str, ...] = ()
    """The float32 tensors that the next graph reads; empty for the last graph."""
    max_wire_bytes: int = 0
    """Upper bound of the float32 bytes of `wire_tensors` for any input this bundle accepts."""
    num_parameters: int = 0
    num_macs: int = 0
    """Multiply-accumulates at the fixed size, or at 800x1066 for a dynamic one."""


class PreProcess(_Model):
    """How a source image becomes `pixels`."""

    kind: Literal["detr", "rcnn"] = "detr"
    """detr: `pixels` are uint8. rcnn: resized bilinearly in float32 without rounding (what normalising first comes to), and
    both sides are padded to multiples of 32."""
    size: tuple[int, int] | None = None
    """Height and width of a fixed-size graph (letterboxed: scaled to fit, top left, zero padding); None for dynamic."""
    short_side: int = 800
    """Dynamic graphs only: the short side is scaled to this many pixels ..."""
    max_long_side: int = 1333
    """... unless the long side would exceed this."""

    @property
    def pixel_size(self) -> tuple[int, int] | None:
        """Height and width of `pixels`, padding included; None where they vary."""
        return None if self.size is None else self.padded(self.size)

    @property
    def pixel_dtype(self) -> Literal["uint8", "float32"]:
        """Of `pixels`."""
        return "uint8" if self.kind == "detr" else "float32"

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of `pixels` that hold an image scaled to `size`."""
        multiple = 1 if self.kind == "detr" else _RCNN_STRIDE
        return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


class PostProcess(_Model):
    """How the last graph's outputs become detections."""

    kind: Literal["detr", "rcnn"] = "detr"
    score_threshold: float = 0.5
    """Detections below are not reported unless a run asks for them; range [0, 1]."""
    nms_iou: float | None = pydantic.Field(default=None, gt=0, le=1)
    """Of a DETR's boxes of one class that overlap more, the better-scored stays; None as published: none is suppressed."""
    max_detections: int = pydantic.Field(default=0, ge=0)
    """Most that one frame can have; 0, of a DETR only: as many as `pred_logits` has rows."""
    masks: bool = False
    """Each detection has a mask."""
    num_keypoints: int = 0
    """Keypoints of each detection."""

    @pydantic.model_validator(mode="after")
    def _fits_kind(self) -> PostProcess:
        if self.kind != "detr" and self.max_detections == 0:
            raise ValueError(f"max_detections is 0, and a detector of kind {self.kind} needs 1 or more")
        if self.kind != "detr" and self.nms_iou is not None:
            raise ValueError(f"nms_iou is for a DETR; a detector of kind {self.kind} suppresses overlaps itself")
        return self


class TorchModel(_Model):
    """What the torch engine needs to build the same model: never needed by the graph engines."""

    weights: str
    """File name of the safetensors file in the bundle."""
    sha256: str
    arguments: dict[str, str | int | float | bool | tuple[int | float, ...] | None]
    """Fields of the model's configuration in `models/`."""


class NeuralFilter(_Model):
    """A small graph that tells frames without any object, so that nothing more is computed or sent for them."""

    graph: GraphStage
    """It reads one float32 tensor and gives `objectness` float32 [1]: the probability that there is an object."""
    after: str
    """Name of the stage whose wire tensor it reads."""
    threshold: float = pydantic.Field(ge=0, le=1)
    """A frame is empty when its `objectness` is below."""
    trained: str = ""
    """Where its weights come from and how the threshold was chosen, one line; empty for random ones."""


class BundleWidth(_Model):
    """A width below 1 of an adaptive bundle."""

    width: float = pydantic.Field(gt=0, lt=1)
    """Fraction of the channels that are active."""
    stages: tuple[GraphStage, ...]
    """The stages that differ at this width, by the names that they have in `Bundle.stages`."""


class Bundle(_Model):
    """The manifest. `Bundle.load` checks it; `folder` is where it was read from."""

    schema_version: Literal[1] = 1
    detector: str
    classes: tuple[str, ...]
    """Name by label; a label is an index into this. COCO's unused ids are "N/A"."""
    preprocess: PreProcess
    postprocess: PostProcess
    stages: tuple[GraphStage, ...]
    golden: str = "golden.npz"
    golden_sha256: str
    num_golden_frames: int
    torch_model: TorchModel | None = None
    opset: int
    trained: str = ""
    """Where the weights come from, one line; empty for random ones."""
    num_head_stages: int = pydantic.Field(default=1, ge=1)
    """So many of the first stages are the head, the part before the split point; the others are the tail."""
    filter: NeuralFilter | None = None
    accuracy: tuple[MeasuredAccuracy, ...] = ()
    width: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Of `stages`; below 1 only in what `at_width` gives."""
    narrower: tuple[BundleWidth, ...] = ()
    """The widths below 1 of an adaptive bundle, increasing."""

    @pydantic.model_validator(mode="after")
    def _check_head(self) -> Bundle:
        if self.num_head_stages > max(1, len(self.stages) - 1):
            raise ValueError(f"{self.num_head_stages} of {len(self.stages)} stages are the head, which leaves no tail")
        if self.filter is not None:
            names = [stage.name for stage in self.stages]
            if self.filter.after not in names[: self.num_head_stages] or self.filter.graph.name in names:
                raise ValueError(
                    f"the filter {self.filter.graph.name!r} comes after {self.filter.after!r}, which must be one of the "
                    f"first {self.num_head_stages} of the stages {names}, and must have a name of its own"
                )
            offered = self.stages[names.index(self.filter.after)].wire_tensors
            wanted = [tensor.name for tensor in self.filter.graph.inputs if tensor.name != "valid_size"]
            if len(wanted) != 1 or wanted[0] not in offered:
                raise ValueError(
                    f"the filter reads {wanted} and {self.filter.after!r} gives {list(offered)}; it reads one of them"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _check_widths(self) -> Bundle:
        widths = [*(each.width for each in self.narrower), self.width]
        if widths != sorted(set(widths)) or (self.narrower and self.width != 1):
            raise ValueError(f"the widths are {widths}; they must increase, and `stages` itself is width 1")
        by_name = {stage.name: stage for stage in self.stages}
        for each in self.narrower:
            names = [stage.name for stage in each.stages]
            if not names or len(set(names)) != len(names) or not set(names) <= set(by_name):
                raise ValueError(
                    f"width {each.width:g} has the stages {names}; it must have one or more of {list(by_name)}, each once"
                )
            if self.filter is not None and self.filter.after in names:
                raise ValueError(f"the filter reads {self.filter.after!r}, which differs at width {each.width:g}")
            for stage in each.stages:
                found, wanted = _tensor_names(stage), _tensor_names(by_name[stage.name])
                if found != wanted:
                    raise ValueError(
                        f"{stage.name!r} has the tensors {found} at width {each.width:g} and {wanted} at width 1; "
                        f"they must have the same names"
                    )
        return self

    @staticmethod
    def load(folder: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Read and check `bundle.json`, and with `verify` the checksum of every file it names.

        Raises BundleError: missing folder or manifest, another schema version, unknown keys, a missing or changed file.
        """
        root = Path(folder)
        path = root / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise BundleError(
                f"no bundle at {root}: {path} cannot be read ({error.strerror}); "
                f"make one with 'splitrail export', or give the right folder with --bundle"
            ) from error
        try:
            raw = json.loads(text)
            version = raw.get("schema_version") if isinstance(raw, dict) else None
            if version != SCHEMA_VERSION:
                raise BundleError(
                    f"{path} has schema version {version!r} and this splitrail reads {SCHEMA_VERSION}; export the bundle again"
                )
            bundle = Bundle.model_validate(raw)
        except json.JSONDecodeError as error:
            raise BundleError(f"{path} is not JSON ({error}); export the bundle again") from error
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}." for part in first["loc"]).removesuffix(".") or "the manifest"
            message = first["msg"].removeprefix("Value error, ")
            raise BundleError(f"{path}: {where}: {message}; export the bundle again") from error
        if verify:
            for name, expected in bundle.checksums().items():
                _verify(root / name, expected)
        return bundle

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `bundle.json` into `folder`, atomically."""
        path = Path(folder) / MANIFEST
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @property
    def widths(self) -> tuple[float, ...]:
        """Every width there is, increasing; the last is that of `stages`, (1.0,) for an ordinary bundle."""
        return (*(each.width for each in self.narrower), self.width)

    def at_width(self, width: float) -> Bundle:
        """This bundle at one of its `widths`: an ordinary one, in the same folder, with that width's graphs and accuracies.

        Raises ConfigError: there is no such width.
        """
        if width not in self.widths:
            raise ConfigError(f"this bundle has no width {width:g}; choose among {', '.join(map(str, self.widths))}")
        if not self.narrower:
            return self
        others = {stage.name: stage for each in self.narrower if each.width == width for stage in each.stages}
        return self.model_copy(
            update={
                "width": width,
                "narrower": (),
                "stages": tuple(others.get(stage.name, stage) for stage in self.stages),
                "accuracy": tuple(row for row in self.accuracy if row.width == width),
            }
        )

    def with_accuracy(self, rows: Sequence[MeasuredAccuracy]) -> Bundle:
        """The same with `rows` in its table, in place of those of the same settings."""
        table = {row.setting: row for row in (*self.accuracy, *rows)}
        return self.model_copy(update={"accuracy": tuple(table.values())})

    def chain(self, *, is_filtered: bool = False) -> tuple[str, ...]:
        """Names of the graphs in the order of a frame's way; with the filter, behind the stage it reads from.

        Raises ConfigError: there is no filter.
        """
        names = [stage.name for stage in self.stages]
        if is_filtered:
            if self.filter is None:
                raise ConfigError(
                    "this bundle has no neural filter; leave out --filter and --filter-threshold, or give a bundle with one"
                )
            names.insert(names.index(self.filter.after) + 1, self.filter.graph.name)
        return tuple(names)

    def head_length(self, *, is_filtered: bool = False) -> int:
        """How many names of `chain` are the head."""
        return self.num_head_stages + is_filtered

    def checksums(self) -> dict[str, str]:
        """File name -> SHA-256 of every file beside the manifest, those of all widths included."""
        stages = [*self.stages, *(stage for each in self.narrower for stage in each.stages)]
        sums = {stage.graph: stage.sha256 for stage in stages}
        if self.filter is not None:
            sums[self.filter.graph.graph] = self.filter.graph.sha256
        sums[self.golden] = self.golden_sha256
        if self.torch_model is not None:
            sums[self.torch_model.weights] = self.torch_model.sha256
        return sums

    @property
    def checksum(self) -> str:
        """SHA-256 over the whole manifest, hence over every file: the bundle's identity, in hexadecimal.

        Two hosts compare that of the whole bundle. That of one width (`at_width`) is another, because its graphs are others.
        """
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def graphs_checksum(self) -> str:
        """That of the same without accuracies: what measured times and trials of engines hold for."""
        return self.model_copy(update={"accuracy": ()}).checksum

    def golden_frames(self, folder: str | os.PathLike[str]) -> list[dict[str, Array]]:
        """The golden frames at this `width`: tensor name -> array, the inputs and every fp32 wire tensor and output."""
        frames: list[dict[str, Array]] = [{} for _ in range(self.num_golden_frames)]
        with np.load(Path(folder) / self.golden, allow_pickle=False) as arrays:
            # What only this width computes comes after, and in place of, what all have in common.
            for key in sorted(arrays.files, key=lambda key: "@" in key):
                index, _, name = key.partition("/")
                name, _, width = name.partition("@")
                if not width or float(width) == self.width:
                    frames[int(index)][name] = arrays[key]
        return frames


def _tensor_names(stage: GraphStage) -> tuple[str, ...]:
    """Of its inputs and outputs, in order."""
    return tuple(tensor.name for tensor in (*stage.inputs, *stage.outputs))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path, expected: str) -> None:
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise BundleError(f"the bundle lacks {path} ({error.strerror}); export or copy the bundle again") from error
    if actual != expected:
        raise BundleError(
            f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}; export or copy the bundle again"
        )
