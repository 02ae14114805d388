"""The prompt bank: the texts of ``data/prompts.json`` and their embeddings, computed once at export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bundled import DATA

#: Categories whose training pictures are photographs: they count as real where nothing says otherwise.
PHOTOGRAPHED = frozenset(
    {"person", "animal", "food", "plant", "vehicle", "building", "landscape", "street", "interior", "object"}
)


@dataclass(frozen=True)
class Prompts:
    """Prompt ensembles: per authenticity class and per image category, a tuple of texts."""

    real: tuple[str, ...]
    deepfake: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]

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
            tuple(pair["real"]), tuple(pair["deepfake"]), {k: tuple(v) for k, v in document["categories"].items()}
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: missing or malformed {error}") from error
    if not prompts.categories or not all(prompts.classes()):
        raise ValueError(f"{path}: every class needs at least one text")
    return prompts


def read_kinds(path: Path = DATA / "kinds.json") -> dict[str, str]:
    """Return the map from a data set's ``kind`` to one of our category names."""
    kinds: dict[str, str] = json.loads(path.read_text())
    return kinds
