"""Weights from a file, a folder or the hub, in any of the layouts that detectors are published in.

* the original checkpoints (`detr-r50-e632da11.pth`): a dictionary whose "model" is the state, backbone `backbone.0.body.*`;
* Hugging Face's: `model.safetensors`, alone or in a folder with `config.json`, or fetched from the hub (`facebook/NAME`);
  the backbone named as in timm or as in their own ResNet;
* torchvision's R-CNNs (`fasterrcnn_resnet50_fpn_coco-258fb6c6.pth`), with the names of its older and newer releases;
* our own: a safetensors file of the detector's `state_dict()`.

Nothing is unpickled: `.pth` goes through torch's restricted loader, other pickle files are refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .detr import Detr
from .layouts import is_published, to_own_layout, to_own_rcnn_layout
from .names import DETECTORS
from .weights_error import WeightsError


@dataclass(frozen=True)
class Weights:
    """What else is known about weights that were loaded."""

    source: str
    """Where they come from, one line."""
    classes: tuple[str, ...] | None
    """Class names by label where the source has them."""


def load_weights(model: nn.Module, weights: str, detector: str) -> Weights:
    """Read `weights` (a file, a folder, or "hub") and put them into `model`, a `Detr` or an `Rcnn`, in place.

    Raises WeightsError: not found, unreadable, hub out of reach, keys missing or left over, shapes that differ.
    """
    if weights == "hub":
        file, source = _from_hub(model, detector)
    else:
        file = Path(weights).expanduser()
        source = file.name
    found = _in_folder(file) if file.is_dir() else file
    to_own = to_own_layout if isinstance(model, Detr) else to_own_rcnn_layout
    state = to_own(read_state(found))
    _check(model, state, found)
    model.load_state_dict(state, strict=False)
    if isinstance(model, Detr):
        return Weights(source, _classes(found.with_name("config.json"), model.config.num_classes))
    from .rcnn import Rcnn

    assert isinstance(model, Rcnn)
    if is_published(found):
        model.set_norm_eps(0.0)
    return Weights(source, None)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write the state of `model` as safetensors, in our own layout."""
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise WeightsError("safetensors is not installed; pip install 'splitrail[torch]'") from error
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)


def _in_folder(folder: Path) -> Path:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise WeightsError(
            f"{folder} has no model.safetensors; pickled weights are not read, convert them to safetensors"
        )
    return file


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a plain checkpoint by name. Raises WeightsError."""
    if not file.is_file():
        raise WeightsError(f"there are no weights at {file}; give --weights a file, a folder or 'hub'")
    if file.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise WeightsError("safetensors is not installed; pip install 'splitrail[torch]'") from error
        try:
            state: dict[str, Tensor] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file} is not a safetensors file ({error}); download it again") from error
        return state
    if file.suffix not in (".pth", ".pt"):
        raise WeightsError(f"{file} is neither .safetensors nor .pth; other pickled weights are not read, convert them")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds, among them RuntimeError, EOFError and pickle's own
        raise WeightsError(
            f"{file} is not a plain checkpoint of tensors, and nothing else is unpickled; save its state as safetensors"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{file} holds no state of a model; give a checkpoint with its tensors under 'model'")
    return state


def _check(model: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    own = model.state_dict()
    expected = {name: tuple(own[name].shape) for name in own if not name.endswith(".num_batches_tracked")}
    for what, keys in (
        ("lacks", [name for name in expected if name not in state]),
        ("has, beyond this detector,", [name for name in state if name not in expected]),
    ):
        if keys:
            raise WeightsError(
                f"{file} {what} {len(keys)} tensors, the first being {keys[0]}; name the detector that the weights are of, "
                f"with its numbers of layers"
            )
    wrong = [name for name, shape in expected.items() if tuple(state[name].shape) != shape]
    if wrong:
        name = wrong[0]
        raise WeightsError(
            f"{file} has {len(wrong)} tensors of another shape, the first being {name} {list(state[name].shape)} where this "
            f"detector has {list(expected[name])}; {_remedy(name, tuple(state[name].shape))}"
        )


def _remedy(name: str, shape: tuple[int, ...]) -> str:
    if name.startswith("roi_heads.box_predictor.cls_score"):
        return f"the weights have num_classes = {shape[0]}, the background included"
    if name.startswith("class_embed"):
        return f"the weights have num_classes = {shape[0] - 1}"
    if name.startswith("query_embed"):
        return f"the weights have num_queries = {shape[0]}"
    return "name the detector that the weights are of"


def _from_hub(model: nn.Module, detector: str) -> tuple[Path, str]:
    """The file, and where it comes from, one line."""
    if not isinstance(model, Detr):
        from .rcnn_weights import published_weights

        return published_weights(detector), f"{detector} from torchvision"
    if detector not in DETECTORS or DETECTORS[detector].depth < 50:
        raise WeightsError(f"the hub has no weights of {detector}; give --weights FILE")
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError("huggingface_hub is not installed; pip install 'splitrail[torch]'") from error
    repository = f"facebook/{detector}"
    verbosity = huggingface_hub.logging.get_verbosity()
    huggingface_hub.logging.set_verbosity(logging.ERROR)
    try:
        huggingface_hub.hf_hub_download(repository, "config.json")
        file = Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
        return file, f"{repository} from the hub"
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{repository} cannot be fetched from the hub; download its model.safetensors by hand and give --weights FILE"
        ) from error
    finally:
        huggingface_hub.logging.set_verbosity(verbosity)


def _classes(config: Path, num_classes: int) -> tuple[str, ...] | None:
    """Class names of a Hugging Face `config.json` beside the weights, if it has one for each class."""
    try:
        names = json.loads(config.read_text(encoding="utf-8")).get("id2label", {})
    except (OSError, ValueError, AttributeError):
        return None
    # "LABEL_0" and so on is what Hugging Face writes where nobody named the classes.
    if set(names) != {str(label) for label in range(num_classes)} or names["0"] == "LABEL_0":
        return None
    return tuple(str(names[str(label)]) for label in range(num_classes))
