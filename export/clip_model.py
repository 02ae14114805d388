"""Loading CLIP models through open_clip: registered architectures, local checkpoints and our compact configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import efficientnet
from .bundled import COMPACT, DATA
from .torch_setup import import_open_clip


@dataclass(frozen=True)
class Backbone:
    """A loaded CLIP: the open_clip module in evaluation mode, its tokenizer and its pixel normalisation."""

    name: str
    model: Any
    tokenizer: Any
    size: int
    context_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_clip(name: str = COMPACT, checkpoint: Path | None = None, random_weights: bool = False) -> Backbone:
    """Load ``model:pretrained`` (weights from the hub), or ``model`` with ``checkpoint`` or with random weights.

    Raises:
        ValueError: the architecture is unknown, or neither pretrained tag, checkpoint nor random weights were chosen.
    """
    open_clip = import_open_clip()
    open_clip.add_model_config(DATA / f"{COMPACT}.json")
    architecture, _, pretrained = name.partition(":")
    if architecture not in open_clip.list_models():
        raise ValueError(f"open_clip knows no architecture {architecture!r}")
    if not pretrained and checkpoint is None and not random_weights:
        raise ValueError(f"{name!r} names no weights: write MODEL:PRETRAINED, or give a checkpoint")
    override = {}
    if architecture == COMPACT:
        override = {"image_mean": efficientnet.MEAN, "image_std": efficientnet.STD}
    model, _, _ = open_clip.create_model_and_transforms(
        architecture, pretrained=pretrained or None, precision="fp32", load_weights=not random_weights, **override
    )
    if checkpoint is not None:
        model.load_state_dict(_read_state(checkpoint))
    config = open_clip.get_model_config(architecture)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess.get("size", config["vision_cfg"]["image_size"])
    return Backbone(
        name=name,
        model=model.eval(),
        tokenizer=open_clip.get_tokenizer(architecture),
        size=size if isinstance(size, int) else size[0],
        context_length=int(model.context_length),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
    )


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
