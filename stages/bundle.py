"""A detector as a folder: `bundle.json` beside one ONNX graph per stage.

Conventions that every graph keeps:

* The first graph reads `pixels` uint8 [1, H, W, 3] RGB 0..255 (normalisation is part of the graph) and, like every later
  one, `valid_size` int64 [2]: height and width of the part of `pixels` that shows the image; the rest is padding. Masks
  and positions are derived from it inside the graphs, so they never travel.
* A tensor T between two graphs is float32 `T`. The graph that makes it also offers T_fp16 float16, and T_uint8 uint8 with
  T_scale float32 [1] and T_zero_point uint8 [1] (`codec.py` has the arithmetic), so weights are stored once and a run asks
  for the outputs its wire type needs (`WIRE_SUFFIXES`). The graph that reads it takes float32 `T`.
* The last graph of a DETR ends in `pred_logits` float32 [1, queries, classes + 1], no-object last, and `pred_boxes`
  float32 [1, queries, 4], cxcywh in [0, 1] relative to the valid part.
* `golden.npz` holds, per golden frame i, `i/pixels`, `i/valid_size` and every fp32 wire tensor and final output as
  `i/NAME`, computed by torch in fp32 at export.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from ..pipeline.errors import BundleError
from ..pipeline.packet import Array

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
WIRE_SUFFIXES: dict[str, tuple[str, ...]] = {
    "fp32": ("",),
    "fp16": ("_fp16",),
    "uint8": ("_uint8", "_scale", "_zero_point"),
}
"""Wire type -> suffixes of the tensors that carry it, in message order."""

WireType = Literal["fp32", "fp16", "uint8"]


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

    size: tuple[int, int] | None = None
    """Height and width of a fixed-size graph (letterboxed: scaled to fit, top left, zero padding); None for dynamic."""
    short_side: int = 800
    """Dynamic graphs only: the short side is scaled to this many pixels ..."""
    max_long_side: int = 1333
    """... unless the long side would exceed this."""


class PostProcess(_Model):
    """How the last graph's outputs become detections."""

    kind: Literal["detr"] = "detr"
    score_threshold: float = 0.5
    """Detections below are not reported unless a run asks for them; range [0, 1]."""


class TorchModel(_Model):
    """What the torch engine needs to build the same model: never needed by the graph engines."""

    weights: str
    """File name of the safetensors file in the bundle."""
    sha256: str
    arguments: dict[str, str | int | float | bool | None]
    """Keyword arguments of the model's constructor in `models/`."""


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
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{path}: {where}: {first['msg']}; export the bundle again") from error
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

    def checksums(self) -> dict[str, str]:
        """File name -> SHA-256 of every file beside the manifest."""
        sums = {stage.graph: stage.sha256 for stage in self.stages}
        sums[self.golden] = self.golden_sha256
        if self.torch_model is not None:
            sums[self.torch_model.weights] = self.torch_model.sha256
        return sums

    @property
    def checksum(self) -> str:
        """SHA-256 over the whole manifest, hence over every file: the bundle's identity, in hexadecimal."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def golden_frames(self, folder: str | os.PathLike[str]) -> list[dict[str, Array]]:
        """The golden frames: tensor name -> array, the inputs and every fp32 wire tensor and output."""
        frames: list[dict[str, Array]] = [{} for _ in range(self.num_golden_frames)]
        with np.load(Path(folder) / self.golden, allow_pickle=False) as arrays:
            for key in arrays.files:
                index, _, name = key.partition("/")
                frames[int(index)][name] = arrays[key]
        return frames


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
