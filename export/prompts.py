"""The prompt bank: the texts of ``data/prompts.json`` and their embeddings, computed once at export."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundled import DATA

if TYPE_CHECKING:
    import torch

    from .models.clip_model import Backbone

#: Categories with photographs as training images. They count as real where a manifest does not say otherwise.
PHOTOGRAPHED = frozenset(
    {"person", "animal", "food", "plant", "vehicle", "building", "landscape", "street", "interior", "object"}
)


@dataclass(frozen=True)
class Prompts:
    """Prompt ensembles: per authenticity class and per image category, a tuple of texts.

    ``offsets`` are logits added to some categories. CLIP calls everything drawn an artwork, for example the drawing of
    a tool in a catalogue. The bundled offset of -2 raises top-1 accuracy on six validation sources from 0.76 to 0.80
    and costs 0.05 on artworks. It was chosen on those same sources.
    """

    real: tuple[str, ...]
    deepfake: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    offsets: dict[str, float] = field(default_factory=dict)

    def classes(self) -> list[tuple[str, ...]]:
        """Return the ensembles in the bank's row order: real, deepfake, then each category."""
        return [self.real, self.deepfake, *self.categories.values()]


def read_prompts(path: Path = DATA / "prompts.json") -> Prompts:
    """Return the prompts of a file.

    Raises:
        ValueError: a class is missing or has no text.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("schema") != "veridict-prompts/1":
        raise ValueError(f"{path} is not a veridict-prompts/1 file")
    try:
        pair = document["authenticity"]
        prompts = Prompts(
            tuple(pair["real"]),
            tuple(pair["deepfake"]),
            {k: tuple(v) for k, v in document["categories"].items()},
            {str(k): float(v) for k, v in document.get("offsets", {}).items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: missing or malformed {error}") from error
    if not prompts.categories or not all(prompts.classes()):
        raise ValueError(f"{path}: every class needs at least one text")
    if unknown := set(prompts.offsets) - set(prompts.categories):
        raise ValueError(f"{path}: an offset for {sorted(unknown)[0]!r}, which is no category")
    return prompts


def read_kinds(path: Path = DATA / "kinds.json") -> dict[str, str]:
    """Return the map from a data set's ``kind`` to one of our category names."""
    kinds: dict[str, str] = json.loads(path.read_text())
    return kinds


def embed_prompts(backbone: Backbone, prompts: Prompts) -> torch.Tensor:
    """Return the prompt bank's rows [2 + categories, D] float32 of unit length: the mean over each class's prompts."""
    import torch

    rows = []
    with torch.inference_mode():
        for texts in prompts.classes():
            features = torch.nn.functional.normalize(backbone.text(backbone.tokenizer(list(texts))).float(), dim=-1)
            rows.append(torch.nn.functional.normalize(features.mean(dim=0), dim=0))
    return torch.stack(rows)
