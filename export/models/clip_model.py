"""Loading CLIP models: the bundled one, or any that open_clip knows, from the hub or from a local checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veridict.forensics.signature import CONTEXT

from ..bundled import CLIP, CLIP_SHARDS, TEXT_VOCABULARY, TEXT_WEIGHTS
from ..torch_setup import import_open_clip
from .clip_weights import read_state
from .text_tower import load_text_tower, load_word_pieces

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
    # open_clip warns about random weights, which the checkpoint replaces right after, and logs errors that it raises
    logging.disable(logging.ERROR)
    try:
        model, _, _ = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained or None, precision="fp32", load_weights=not random_weights
        )
    except Exception as error:  # open_clip and huggingface_hub raise RuntimeError, OSError and errors of their own
        if not pretrained:
            raise
        raise ValueError(_why_not_loaded(open_clip, architecture, pretrained, error)) from error
    finally:
        logging.disable(logging.NOTSET)
    text: nn.Module = _OpenClipText(model)
    tokenizer, context = open_clip.get_tokenizer(architecture), int(model.context_length)
    state = _read_checkpoint(checkpoint) if checkpoint is not None else {}
    image_alone = name == CLIP and bool(state) and all(key.startswith("visual.") for key in state)
    if bundled or image_alone:
        known = read_state(CLIP_SHARDS)
        tower = {key.removeprefix("visual."): value for key, value in (state or known).items()}
        _load_state(model.visual, tower, checkpoint or CLIP_SHARDS[0])
        bundled = bundled or _same_weights(state, known)
        text, tokenizer = load_text_tower(TEXT_WEIGHTS), load_word_pieces(TEXT_VOCABULARY)
        context, scale = CONTEXT, OPENAI_SCALE
    else:
        if checkpoint is not None:
            _load_state(model, state, checkpoint)
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


def _why_not_loaded(open_clip: Any, architecture: str, pretrained: str, error: Exception) -> str:
    """Return one sentence: the tag is unknown, or its weights cannot be had."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = {pretrained.lower(), pretrained.lower().replace("-", "_")} & set(tags) or Path(pretrained).exists()
    if known:
        why = f"the weights {pretrained!r} of {architecture} cannot be loaded ({type(error).__name__}: no network?)"
    else:
        why = f"open_clip knows no weights {pretrained!r} of {architecture}, only {', '.join(tags) or 'none'}"
    return f"{why}; from a local file: --clip {architecture} --clip-checkpoint FILE"


def _same_weights(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    """Return whether two states of one architecture are equal in half precision, the precision of checkpoints."""
    return all(torch.equal(value.half(), others[name].half()) for name, value in some.items())


def _load_state(model: nn.Module, state: dict[str, torch.Tensor], checkpoint: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} does not hold weights of this architecture: {str(error)[:300]}") from error


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = _read_tensors(path)
    except OSError:
        raise
    except Exception as error:  # safetensors, pickle and zip have exceptions of their own
        raise ValueError(f"{path} holds no weights that can be read ({type(error).__name__})") from error
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state.get("state_dict", state))
