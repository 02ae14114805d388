"""Training data of the text tower: CLIP's own embeddings of names, and embedded images with their content."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from veridict.forensics.arrays import BoolArray, Float32Array, Int64Array

from ..prompts import Prompts, read_kinds

#: Embeds files that have no stored embedding: paths -> unit-length rows [N, D] float32.
Embedder = Callable[[Sequence[Path]], Float32Array]

_TEMPLATES = ("a photo of a {}", "a photo of a {}.", "{}", "a picture of a {}", "an image of a {}", "this is a {}")
_DRAWN = {"sketch": "a sketch of a {}", "cartoon": "a cartoon of a {}", "art painting": "a painting of a {}"}
#: Pattern of a kind that names the content of an image -> category.
_CONTENT = {
    r"^(abstract |digital |oil |web |anime |pencil )?(painting|illustration|comic|drawing|cartoon)": "artwork",
    r"animal faces|pets, farm|photographs \(animals": "animal",
    r"face crops": "human face",
    r"\(vehicle\)": "vehicle",
    r"small photograph \(interior\)|, interiors\)": "interior",
    r"^landscape photograph": "landscape",
    r"Food-101": "food",
}


@dataclass(frozen=True)
class EmbeddedImages:
    """Rows of the manifest with their embeddings: ``embedding`` [N, D] float32; one entry per image in the lists.

    ``texts`` are captions, or the finer label in words; empty where the manifest does not name the content.
    ``category`` is an index or -1, ``fake`` 0 real, 1 fake, -1 unknown.
    """

    embedding: torch.Tensor
    source: list[str]
    split: list[str]
    texts: list[tuple[str, ...]]
    name: list[str]
    category: Int64Array
    fake: Int64Array


@dataclass(frozen=True)
class Anchors:
    """Embeddings of names by CLIP's own text tower, unit-length rows [N, D] float32.

    ``photo`` is for "a photo of a NAME", ``several`` the mean direction over ``templates``, a row of zeros where it is
    unknown. ``held`` [N] marks the names kept back.
    """

    names: list[str]
    photo: torch.Tensor
    several: torch.Tensor
    templates: list[str]
    held: BoolArray


def read_anchors(path: Path, held_back: int, prompts: Prompts, seed: int) -> Anchors:
    """Return the anchors of an npz file; ``held_back`` of them are marked.

    All spellings of a name ("sky", "sky-other") are marked together. A name that a prompt contains is never kept back,
    since images teach it.
    """
    with np.load(path, allow_pickle=False) as stored:
        names = [str(name) for name in stored["names"]]
        photo = stored["photo"].astype(np.float32)
        several = np.zeros_like(photo)
        rows = {name: row for row, name in enumerate(names)}
        for name, value in zip(stored["several_names"], stored["several"].astype(np.float32), strict=True):
            several[rows[str(name)]] = value
        templates = [str(template) for template in stored["templates"]]
    said = " ".join(text for texts in prompts.classes() for text in texts)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(_spelling(name), []).append(row)
    held = np.zeros(len(names), dtype=np.bool_)
    for group in np.random.default_rng(seed).permutation(sorted(groups)):
        known = any(re.search(rf"\b{re.escape(names[row].strip())}\b", said) for row in groups[group])
        if not known and held.sum() + len(groups[group]) <= held_back:
            held[groups[group]] = True
    rows_of = [nn.functional.normalize(torch.from_numpy(values), dim=1) for values in (photo, several)]
    return Anchors(names, rows_of[0], rows_of[1], templates, held)


def _spelling(name: str) -> str:
    return re.sub(r"-(other|stuff)$|[\s-]", "", name.lower())


def read_embedded_images(
    manifest: Path, features: Iterable[Path], categories: Sequence[str], embed: Embedder | None = None
) -> EmbeddedImages:
    """Return the manifest's images that have an embedding; ``embed`` computes missing ones.

    Raises:
        ValueError: no image of the manifest has an embedding.
    """
    cached: dict[str, Float32Array] = {}
    for path in features:
        with np.load(path, allow_pickle=False) as stored:
            cached |= zip(map(str, stored["files"]), stored["embedding"].astype(np.float32), strict=True)
    with manifest.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    kinds = read_kinds()
    wanted = [row for row in rows if row["kind"] in kinds or row["label"] in ("real", "fake")]
    missing = [row["file"] for row in wanted if row["file"] not in cached]
    if missing and embed is not None:
        cached |= zip(missing, embed([manifest.parent / file for file in missing]), strict=True)
    wanted = [row for row in wanted if row["file"] in cached]
    if not wanted:
        raise ValueError(f"no image of {manifest} has an embedding")
    groups = [_category(row, kinds) for row in wanted]
    embedding = torch.from_numpy(np.stack([cached[row["file"]] for row in wanted]))
    return EmbeddedImages(
        nn.functional.normalize(embedding, dim=1),
        [row["source"] for row in wanted],
        [row["split"] for row in wanted],
        [_texts(row, group) for row, group in zip(wanted, groups, strict=True)],
        [_words(row["label"])[-1] for row in wanted],
        np.array([list(categories).index(group) if group else -1 for group in groups]),
        np.array([{"real": 0, "fake": 1}.get(row["label"], -1) for row in wanted]),
    )


def _category(row: dict[str, str], kinds: dict[str, str]) -> str:
    if row["source"].startswith("faces/"):  # human faces, whatever their generator is called
        return "human face"
    if row["kind"] in kinds or row["label"] != "real" or row["split"] != "train":
        return kinds.get(row["kind"], "")
    # These patterns are good enough to learn from, but not to measure by.
    return next((category for pattern, category in _CONTENT.items() if re.search(pattern, row["kind"])), "")


def _words(label: str) -> list[str]:
    return [re.sub(r"[_\s-]+", " ", part).strip().lower() for part in label.split("__")]


def _texts(row: dict[str, str], category: str) -> tuple[str, ...]:
    """Return the captions of a row, or its label in templates; for drawings the text names the technique."""
    captions = [caption.strip() for caption in row["caption"].split("|") if caption.strip()]
    if row["label"] in ("real", "fake"):
        return ()
    *above, name = _words(row["label"])
    if len(captions) > 1 or (captions and len(captions[0].split()) > 4):
        return tuple(captions)
    drawn = _DRAWN.get(above[0] if above else "")
    return (drawn.format(name),) if drawn else tuple(t.format(captions[0] if captions else name) for t in _TEMPLATES)
