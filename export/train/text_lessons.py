"""One training step of the text tower: which texts and images are drawn, and the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from veridict.forensics.arrays import Float32Array, Int64Array

from ..models.clip_model import OPENAI_SCALE
from ..models.text_tower import TextTower, WordPieces, embed_texts
from ..prompts import Prompts
from .settings import TextTraining
from .text_data import Anchors, EmbeddedImages

#: Other words for the two classes besides the prompts in use, so that a reworded prompt means the same.
REAL_WORDS = ("a real photo", "an authentic photograph", "a genuine picture", "an image made by a person or a camera")
FAKE_WORDS = ("a fake image", "an AI-generated image", "a generated picture", "a synthetic image made by an AI")


def _shares(groups: Sequence[Any], sources: Sequence[str]) -> Float32Array:
    """Return weights [N] that sum to 1, by the root of the size of each group and of each source in its group."""
    sizes, pairs = Counter(groups), list(zip(groups, sources, strict=True))
    counted = Counter(pairs)
    weights = np.array([counted[pair] ** -0.5 for pair in pairs])
    for group in sizes:
        at = np.array([other == group for other in groups])
        weights[at] *= sizes[group] ** 0.5 / weights[at].sum()
    return np.asarray(weights / weights.sum())


def _cross_entropy(images: torch.Tensor, texts: torch.Tensor, target: Int64Array, smooth: float = 0.05) -> torch.Tensor:
    logits = OPENAI_SCALE * images @ texts.T
    return nn.functional.cross_entropy(logits, torch.from_numpy(target), label_smoothing=smooth)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


class Lessons:
    """Draws the texts and images of a step and computes the tower's loss on them."""

    def __init__(
        self,
        images: EmbeddedImages,
        anchors: Anchors,
        words: tuple[list[str], torch.Tensor],
        prompts: Prompts,
        settings: TextTraining,
    ) -> None:
        """Choose the images and names to learn from; ``words`` is what ``guess_words`` returns."""
        self.words = words
        self.anchors, self.prompts, self.settings, self.images = anchors, prompts, settings, images
        # Only the train split: the fusion is fitted on the images that are set aside for calibration.
        learning = np.array(
            [s == "train" and o not in settings.held_out for s, o in zip(images.split, images.source, strict=True)]
        )
        self.known = np.flatnonzero(learning & (images.category >= 0))
        self.judged = np.flatnonzero(learning & (images.fake >= 0))
        # A category without training images is not in the loss: as a mere negative it would be driven away.
        self.shown = sorted(set(images.category[self.known].tolist()))
        held = {name.strip() for name, kept in zip(anchors.names, anchors.held, strict=True) if kept}
        # A label that is a name kept back is not used; captions may still contain the name.
        self.texts = [() if name in held else t for name, t in zip(images.name, images.texts, strict=True)]
        self.known_share = _shares(images.category[self.known].tolist(), [images.source[i] for i in self.known])
        self.judged_share = _shares(images.fake[self.judged].tolist(), [images.source[i] for i in self.judged])
        self.taught = np.flatnonzero(~anchors.held)

    def _images(self, rows: Int64Array) -> torch.Tensor:
        x = self.images.embedding[torch.from_numpy(rows)]
        x = x + torch.randn_like(x) * self.settings.noise / x.shape[1] ** 0.5
        return nn.functional.normalize(x, dim=1)

    def loss(self, tower: TextTower, pieces: WordPieces, rng: np.random.Generator) -> torch.Tensor:
        """Return the sum of the losses of one step, a scalar."""
        settings, categories = self.settings, list(self.prompts.categories.values())
        texts: dict[str, int] = {}  # text -> row, so that equal texts are embedded once

        def row(text: str) -> int:
            return texts.setdefault(text, len(texts))

        names = rng.choice(self.taught, min(settings.batch, len(self.taught)), replace=False)
        photo = [row(f"a photo of a {self.anchors.names[n]}") for n in names]
        some = names[: len(names) // 2][self.anchors.several[names[: len(names) // 2]].any(dim=1).numpy()]
        several = [row(_pick(self.anchors.templates, rng).format(self.anchors.names[n])) for n in some]
        classes = [row(_pick(categories[c], rng)) for c in self.shown]
        pair = [
            row(_pick((*own, *(own * len(more)), *more), rng))
            for own, more in ((self.prompts.real, REAL_WORDS), (self.prompts.deepfake, FAKE_WORDS))
        ]
        known = rng.choice(self.known, settings.batch, p=self.known_share) if len(self.known) else self.known
        judged = rng.choice(self.judged, settings.batch, p=self.judged_share) if len(self.judged) else self.judged
        told = [n for n in known if self.texts[n]]
        captions = [row(_pick(self.texts[n], rng)) for n in told]
        guessed = rng.choice(len(self.words[0]), min(settings.batch // 2, len(self.words[0])), replace=False)
        words = [row(self.words[0][n]) for n in guessed]
        embedded = embed_texts(tower, pieces, list(texts))

        wrong = (1 - (embedded[photo] * self.anchors.photo[names]).sum(dim=1)).mean()
        if several:
            wrong = wrong + 0.5 * (1 - (embedded[several] * self.anchors.several[some]).sum(dim=1)).mean()
        total = settings.anchor_weight * wrong
        total = total + settings.word_weight * (1 - (embedded[words] * self.words[1][guessed]).sum(dim=1)).mean()
        if len(known):
            target = np.searchsorted(self.shown, self.images.category[known])
            total = total + _cross_entropy(self._images(known), embedded[classes], target)
        if captions:
            at = sorted(set(captions))
            target = np.array([at.index(c) for c in captions])
            total = total + 0.5 * _cross_entropy(self._images(np.array(told)), embedded[at], target)
        if len(judged):
            total = total + _cross_entropy(self._images(judged), embedded[pair], self.images.fake[judged])
        return total
