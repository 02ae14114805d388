"""Loading CLIP models: the bundled one, or any that open_clip knows, from the hub or from a local checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bundled import CLIP, CLIP_SHARDS, TEXT_VOCABULARY, TEXT_WEIGHTS
from ..torch_setup import import_open_clip
from .clip_weights import read_state
from .text_tower import CONTEXT, load_text_tower, load_word_pieces

#: The model that the bundled image tower was restored from; the weights differ by the rounding of int8 only.
BUNDLED_FAMILY = f"{CLIP}:openai"
#: OpenAI's trained temperature: cosines times 100 are logits.
OPENAI_SCALE = 100.0


@dataclass(frozen=True)
class Backbone:
    """A loaded CLIP in evaluation mode.

    ``family`` names the weights as ``MODEL:PRETRAINED``. Heads and calibration apply to every backbone of the family
    that they were fitted on, in whatever precision its weights are stored. It is "" when unknown, as for a local
    checkpoint. ``visual`` is open_clip's image tower. ``text`` is a module: tokens [N, context] -> features [N, D].
    ``tokenizer`` makes tokens from a list of texts. ``scale`` turns cosines into logits. ``mean`` and ``std`` normalise
    pixels in 0..1.
    """

    name: str
    family: str
    visual: Any
    text: nn.Module
    tokenizer: Any
    scale: float
    size: int
    context_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class _OpenClipText(nn.Module):
    """The text side of an open_clip model: tokens [N, context] -> features [N, D]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_text(tokens)
        return features


def load_clip(name: str = CLIP, checkpoint: Path | None = None, random_weights: bool = False) -> Backbone:
    """Load the bundled CLIP, ``model:pretrained`` (hub weights), or ``model`` with a ``checkpoint`` or random weights.

    A checkpoint of the bundled architecture with nothing but an image tower (``visual.*``, as ``veridict train tower``
    writes) is combined with the bundled text tower.

    Raises:
        ValueError: the architecture is unknown, or neither pretrained tag, checkpoint nor random weights were chosen.
    """
    open_clip = import_open_clip()
    architecture, _, pretrained = name.partition(":")
    if architecture not in open_clip.list_models():
        raise ValueError(f"open_clip knows no architecture {architecture!r}")
    bundled = name == CLIP and checkpoint is None and not random_weights
    if not (bundled or pretrained or checkpoint or random_weights):
        raise ValueError(f"{name!r} names no weights: write MODEL:PRETRAINED, or give a checkpoint")
    # open_clip warns about random weights, which the checkpoint replaces right after
    logging.disable(logging.WARNING)
    try:
        model, _, _ = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained or None, precision="fp32", load_weights=not random_weights
        )
    finally:
        logging.disable(logging.NOTSET)
    text: nn.Module = _OpenClipText(model)
    tokenizer, context = open_clip.get_tokenizer(architecture), int(model.context_length)
    state = _read_checkpoint(checkpoint) if checkpoint is not None else {}
    image_alone = name == CLIP and bool(state) and all(key.startswith("visual.") for key in state)
    if bundled or image_alone:
        known = read_state(CLIP_SHARDS)
        tower = {key.removeprefix("visual."): value for key, value in (state or known).items()}
        model.visual.load_state_dict(tower)
        bundled = bundled or _same_weights(state, known)
        text, tokenizer = load_text_tower(TEXT_WEIGHTS), load_word_pieces(TEXT_VOCABULARY)
        context, scale = CONTEXT, OPENAI_SCALE
    else:
        if checkpoint is not None:
            model.load_state_dict(state)
        scale = float(model.logit_scale.detach().exp())
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess.get("size", open_clip.get_model_config(architecture)["vision_cfg"]["image_size"])
    return Backbone(
        name=name,
        family=BUNDLED_FAMILY if bundled else name if pretrained and checkpoint is None and not random_weights else "",
        visual=model.visual.eval(),
        text=text.eval(),
        tokenizer=tokenizer,
        scale=scale,
        size=size if isinstance(size, int) else size[0],
        context_length=context,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
    )


def _same_weights(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    """Return whether two states of one architecture are equal in half precision, the precision of checkpoints."""
    return all(torch.equal(value.half(), others[name].half()) for name, value in some.items())


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
