"""The trained detector that a student learns from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..models.detector import build_detector, config_of_arguments, for_inference, num_labels, preprocess_of
from ..models.efficientdet import EfficientDet
from ..models.efficientdet_config import EFFICIENTDETS, efficientdet_config
from ..models.efficientdet_weights import load_efficientdet
from ..models.export import ExportOptions, write_bundle
from ..models.names import class_names, default_classes, model_config
from ..models.weights import load_weights
from ..pipeline.errors import ConfigError
from ..stages.bundle import MANIFEST, Bundle, PreProcess
from .finished import load_finished, options_for


class Teacher(NamedTuple):
    """In evaluation mode, on the CPU in float32, a ResNet's normalisation frozen."""

    model: nn.Module
    """A `Detr`, an `Rcnn` or an `EfficientDet`."""
    name: str
    classes: tuple[str, ...]
    preprocess: PreProcess


def load_teacher(what: str, weights: str = "", size: tuple[int, int] | None = None) -> Teacher:
    """From a checkpoint, the folder of a training or of a distillation, a bundle with weights for torch, or by name with
    `weights` (a file, a folder, "hub"). With `size` (height, width) its images get that size.

    Raises ConfigError: none of these, or weights missing; CheckpointError, WeightsError, BundleError.
    """
    path = Path(what).expanduser()
    if (path / MANIFEST).is_file():
        teacher = _of_bundle(path)
    elif path.exists():
        finished = load_finished(path)
        teacher = Teacher(finished.model, finished.name, finished.position.classes, finished.preprocess)
    else:
        teacher = _of_name(what, weights)
    if weights and path.exists():
        raise ConfigError(f"{what} has weights of its own; leave --weights out")
    if isinstance(teacher.model, EfficientDet):
        preprocess_of(teacher.model.config, size)  # refuses another size than its own
    preprocess = teacher.preprocess if size is None else teacher.preprocess.model_copy(update={"size": size})
    return teacher._replace(model=for_inference(teacher.model), preprocess=preprocess)


def export_teacher(folder: Path, out: str | os.PathLike[str], options: ExportOptions | None = None) -> Bundle:
    """Export the detector in a bundle anew, from its weights for torch, into the folder `out`: at other cuts, without a
    suppression of double boxes unless `options` ask for it. Raises as `load_teacher` and `write_bundle` do."""
    teacher, trained = _of_bundle(folder), Bundle.load(folder).trained
    options = options_for(teacher.preprocess, teacher.classes, options)
    return write_bundle(teacher.model, teacher.name, out, options, trained=trained)


def _of_name(name: str, weights: str) -> Teacher:
    try:
        config = efficientdet_config(name) if name in EFFICIENTDETS else model_config(name)
    except ConfigError as error:
        raise ConfigError(f"the teacher {name!r} is no file, no folder and no detector's name ({error})") from error
    if not weights:
        raise ConfigError(f"the teacher {name} has random weights, which teach nothing; give --weights FILE or hub")
    model = build_detector(config)
    if isinstance(model, EfficientDet):
        load_efficientdet(model, weights)
        return Teacher(model, name, class_names(num_labels(config)), preprocess_of(config, None))
    loaded = load_weights(model, weights, name)  # type: ignore[arg-type,unused-ignore]
    return Teacher(model, name, loaded.classes or default_classes(config), preprocess_of(config, None))


def _of_bundle(folder: Path) -> Teacher:
    bundle = Bundle.load(folder)
    if bundle.torch_model is None:
        raise ConfigError(f"the bundle {folder} has no weights for torch; export it with --torch, or give its training")
    from safetensors.torch import load_file

    try:
        config = config_of_arguments(bundle.torch_model.arguments)
        with torch.device("meta"):
            model = build_detector(config)
        model.load_state_dict(load_file(folder / bundle.torch_model.weights), assign=True)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f"the torch weights of {folder} do not fit ({str(error).splitlines()[0]})") from error
    return Teacher(model, bundle.detector, bundle.classes, bundle.preprocess)
