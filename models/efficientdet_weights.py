"""Weights of EfficientDets: the official ones by name or file, and students made from a teacher.

Official are effdet's ports of Google's checkpoints (`tf_efficientdet_d1_40-a30f94af.pth` and so on, plain states of tensors). Our
own are safetensors of a detector's `state_dict()`, a student's with its compressor and the statistics of every width.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .efficientdet import EfficientDet
from .efficientdet_config import EfficientDetConfig
from .slimmable import SlimmableBatchNorm2d
from .weights import read_state
from .weights_error import WeightsError

_STATISTICS = ("running_mean", "running_var")


def load_efficientdet(model: EfficientDet, weights: str) -> str:
    """Read `weights` (a file, or "hub") into `model` in place; gives where they come from, one line.

    A student takes official weights too: its compressor, and for a `restorer` the projection before the wire, stay fresh, and
    every width begins with the teacher's statistics. Raises WeightsError: not found, unreadable, of another detector.
    """
    file = published_file(model.config.level) if weights == "hub" else Path(weights).expanduser()
    _put(model, read_state(file), str(file))
    return f"EfficientDet-D{model.config.level} from effdet" if weights == "hub" else file.name


def student_of(teacher: EfficientDet, config: EfficientDetConfig, *, fresh_encoder: bool = False) -> EfficientDet:
    """A student with the teacher's weights wherever it has the same layers; the rest, and with `fresh_encoder` everything up
    to P3, is fresh (Assine et al. 2021, table 3). Raises WeightsError where the two differ in more than the bottleneck."""
    student = EfficientDet(config)
    _put(student, teacher.state_dict(), "the teacher")
    if fresh_encoder:
        student.reset_encoder()
    return student


def published_file(level: int) -> Path:
    """The official checkpoint in torch's cache, downloaded if it is not there. Raises WeightsError: no way to it."""
    import effdet

    url = str(effdet.get_efficientdet_config(f"tf_efficientdet_d{level}").url)
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        return file
    partial = file.with_suffix(".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(partial), progress=False)
        expected = re.search(r"-([0-9a-f]{8})\.", file.name)
        if expected and not hashlib.sha256(partial.read_bytes()).hexdigest().startswith(expected[1]):
            raise WeightsError(f"{url} arrived damaged; try again")
        partial.rename(file)
    except OSError as error:
        raise WeightsError(f"{url} cannot be fetched; download it by hand and give --weights FILE") from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def _put(model: EfficientDet, state: Mapping[str, Tensor], source: str) -> None:
    own = model.state_dict()
    found = {name.removeprefix("module.").removeprefix("model."): value for name, value in state.items()}
    fresh = _fresh_names(model) if not any(name.startswith("decompressor.") for name in found) else ()
    repeated = {
        f"{name}.{kind}": len(module.widths)
        for name, module in model.named_modules()
        if isinstance(module, SlimmableBatchNorm2d)
        for kind in _STATISTICS
    }
    chosen = {}
    for name, value in found.items():
        if name.endswith(".num_batches_tracked") or name.startswith(fresh or ("\0",)):
            continue
        if name in repeated and value.dim() == 1:
            value = value.repeat(repeated[name], 1)
        chosen[name] = value
    needed = [
        name for name in own if not name.endswith(".num_batches_tracked") and not name.startswith(fresh or ("\0",))
    ]
    for what, names in (
        ("lacks", [name for name in needed if name not in chosen]),
        ("has, beyond this detector,", [name for name in chosen if name not in own]),
    ):
        if names:
            raise WeightsError(
                f"{source} {what} {len(names)} tensors, the first being {names[0]}; name the EfficientDet that the weights are of"
            )
    for name, value in chosen.items():
        if value.shape != own[name].shape:
            classes = (
                f"; the weights have num_classes = {len(value) // 9}" if name.startswith("class_net.predict") else ""
            )
            raise WeightsError(
                f"{source} has {name} {list(value.shape)} where this detector has {list(own[name].shape)}"
                f"{classes or '; name the EfficientDet that the weights are of'}"
            )
    model.load_state_dict(chosen, strict=False)


def _fresh_names(model: EfficientDet) -> tuple[str, ...]:
    """What a student has and a teacher has not, or has in another shape."""
    if not model.config.bottleneck:
        return ()
    names: tuple[str, ...] = ("compressor.", "decompressor.")
    if model.config.compressor == "restorer":
        last = f"backbone.blocks.2.{len(model.backbone.blocks[2]) - 1}."
        names += (f"{last}conv_pwl.", f"{last}bn3.")
    return names


def plain(config: EfficientDetConfig) -> EfficientDetConfig:
    """The teacher's configuration for a student's: the same detector without a bottleneck."""
    return replace(config, bottleneck=0, compressor="mbconv", widths=(), configurable="bandwidth")
