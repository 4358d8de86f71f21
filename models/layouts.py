"""Foreign names of a detector's parameters to ours.

The original checkpoints differ in the backbone's prefix only. Hugging Face splits the joint projections of attention and
renames everything; its backbone is named as in timm (= torchvision, our own names) or as in its own ResNet, and its newer
releases use other names in memory (`o_proj`, `mlp.fc1`, `backbone.model`) than in files, both of which are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_STAGE = r"^encoder\.stages\.(\d)\.layers\.(\d+)\."
_RULES: tuple[tuple[str, str], ...] = (
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^model\.(encoder|decoder)\.", r"transformer.\1."),
    (r"^transformer\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"\.encoder_attn\.", ".multihead_attn."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.(?:mlp\.)?fc([12])\.", r".linear\1."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"(transformer\.encoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"(transformer\.decoder\..*)\.final_layer_norm\.", r"\1.norm3."),
)
_RCNN_RULES: tuple[tuple[str, str], ...] = (
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
)
"""Names of torchvision before 0.14, as its published files have them, to those of today."""
_PUBLISHED = re.compile(r"^(faster|mask|keypoint)rcnn_resnet50_fpn_coco-[0-9a-f]{8}\.pth$")
_BACKBONE = re.compile(r"^model\.backbone\.(?:conv_encoder\.)?model\.(?:_backbone\.)?")


def to_own_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a published DETR under the names of `Detr`. Unknown names stay, for the caller to complain about."""
    if any(name.startswith("model.backbone.") for name in state):
        state = _join_projections({_from_hugging_face(name): value for name, value in state.items()})
    own = {re.sub(r"^backbone\.0\.body\.", "backbone.", name): value for name, value in state.items()}
    return {name: value for name, value in own.items() if not name.endswith(".num_batches_tracked")}


def to_own_rcnn_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a torchvision R-CNN of any release under the names of `Rcnn`, which are those of the present one."""
    own = {}
    for name, value in state.items():
        for pattern, replacement in _RCNN_RULES:
            name = re.sub(pattern, replacement, name)
        if match := re.match(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$", name):
            name = f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
        own[name] = value
    return {name: value for name, value in own.items() if not name.endswith(".num_batches_tracked")}


def is_published(file: Path) -> bool:
    """Whether a checkpoint is one of those that torchvision publishes, which were trained without an epsilon in their
    normalisation."""
    return _PUBLISHED.match(file.name) is not None


def _from_hugging_face(name: str) -> str:
    in_backbone, is_backbone = _BACKBONE.subn("", name)
    if is_backbone:
        return "backbone." + _from_hugging_face_resnet(in_backbone)
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _from_hugging_face_resnet(name: str) -> str:
    """`embedder.embedder.convolution.weight` to `conv1.weight`, and so on; torchvision's names stay as they are."""
    kinds = {"convolution": "conv", "normalization": "bn"}
    if match := re.match(r"^embedder\.embedder\.(convolution|normalization)\.(.+)$", name):
        return f"{kinds[match[1]]}1.{match[2]}"
    if match := re.match(_STAGE + r"shortcut\.(convolution|normalization)\.(.+)$", name):
        return f"layer{int(match[1]) + 1}.{match[2]}.downsample.{int(match[3] == 'normalization')}.{match[4]}"
    if match := re.match(_STAGE + r"layer\.(\d)\.(convolution|normalization)\.(.+)$", name):
        return f"layer{int(match[1]) + 1}.{match[2]}.{kinds[match[4]]}{int(match[3]) + 1}.{match[5]}"
    return name


def _join_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """q_proj, k_proj and v_proj to one in_proj, where all three are there."""
    joined = dict(state)
    for name in state:
        if match := re.match(r"^(.+)\.q_proj\.(weight|bias)$", name):
            parts = [f"{match[1]}.{letter}_proj.{match[2]}" for letter in "qkv"]
            if all(part in state for part in parts):
                joined[f"{match[1]}.in_proj_{match[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined
