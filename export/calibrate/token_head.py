"""Trains and cross-validates the head on CLIP's class tokens; :mod:`veridict.forensics.token_head` runs it.

Rules of the training: the weight of a source is the square root of its size, for real and fake alike. Every image is
used as it is and in degraded copies. Labels are smoothed, because a few are wrong. A family of sources is never on both
sides of a fold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from veridict.forensics.arrays import AnyArray, Float16Array, Float32Array, Float64Array, FloatArray, Int64Array
from veridict.forensics.token_head import TENSORS, unit_rows

from ..files import replacing


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained; the defaults are those of the bundled one."""

    features: int = 128
    dropout: float = 0.5
    epochs: int = 20
    half_batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    smoothing: float = 0.03
    members: int = 3


class RineHead(nn.Module):
    """Standardised tokens [N, K, W] -> logits [N]; RINE's form (Koutlis & Papadopoulos 2024)."""

    def __init__(self, blocks: int, width: int, settings: HeadSettings) -> None:
        """Make a head of random weights."""
        super().__init__()
        features = settings.features
        self.dropout = nn.Dropout(settings.dropout)
        self.project = nn.Linear(width, features)
        self.importance = nn.Parameter(torch.zeros(blocks, features))
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        projected = self.dropout(_gelu(self.project(self.dropout(tokens))))
        pooled = (projected * self.importance.softmax(dim=0)).sum(dim=1)
        logits: torch.Tensor = self.out(self.dropout(_gelu(self.hidden(pooled))))[:, 0]
        return logits


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class Tokens:
    """Training rows: class tokens [N, V, K, W] float16 of unit length in V qualities, labels [N], sources, families."""

    views: Float16Array
    labels: Int64Array
    sources: tuple[str, ...]
    families: tuple[str, ...]

    def take(self, rows: Int64Array) -> Tokens:
        """Return some images."""
        names = ([values[i] for i in rows] for values in (self.sources, self.families))
        sources, families = (tuple(part) for part in names)
        return Tokens(self.views[rows], self.labels[rows], sources, families)


def source_weights(labels: Int64Array, sources: Sequence[str]) -> Float64Array:
    """Return weights [N] that sum to 1 per class.

    The weight of an image is proportional to the inverse root of the number of images of its source and label.
    """
    keys = list(zip(sources, labels.tolist(), strict=True))
    counts = Counter(keys)
    weights = np.array([counts[key] ** -0.5 for key in keys])
    for label in (0, 1):
        rows = labels == label
        weights[rows] /= max(weights[rows].sum(), 1e-12)
    return weights


def standardisation(data: Tokens) -> tuple[Float32Array, Float32Array]:
    """Return mean and deviation [K, W] of the tokens over images and views."""
    flat = data.views.reshape(-1, *data.views.shape[2:])
    mean = flat.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(flat), 4096):  # in chunks: a float64 copy of everything needs too much memory
        square += np.square(flat[start : start + 4096].astype(np.float32) - mean).sum(axis=0)
    return mean.astype(np.float32), np.sqrt(square / len(flat) + 1e-12).astype(np.float32) + np.float32(1e-6)


def train_member(
    data: Tokens,
    mean: Float32Array,
    scale: Float32Array,
    seed: int,
    settings: HeadSettings = HeadSettings(),
) -> RineHead:
    """Train one member of the ensemble; each batch is half real and half fake, each image in one random view."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    weights = source_weights(data.labels, data.sources)
    sides = [np.flatnonzero(data.labels == label) for label in (0, 1)]
    chances = [weights[side] / weights[side].sum() for side in sides]
    count, views, blocks, width = data.views.shape
    head = RineHead(blocks, width, settings)
    center, spread = torch.from_numpy(mean), torch.from_numpy(scale)
    half = settings.half_batch
    steps = max(1, settings.epochs * count // (2 * half))
    optimiser = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    target = torch.cat([torch.full((half,), settings.smoothing), torch.full((half,), 1.0 - settings.smoothing)])
    for _ in range(steps):
        rows = np.concatenate([rng.choice(side, half, p=chance) for side, chance in zip(sides, chances, strict=True)])
        batch = torch.from_numpy(data.views[rows, rng.integers(0, views, len(rows))]).float()
        loss = nn.functional.binary_cross_entropy_with_logits(head((batch - center) / spread), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def score_rows(
    members: Sequence[RineHead], mean: Float32Array, scale: Float32Array, tokens: Float16Array
) -> Float32Array:
    """Return the ensemble's logits [N] of unit-length tokens [N, K, W]."""
    center, spread = torch.from_numpy(mean), torch.from_numpy(scale)
    found = []
    for start in range(0, len(tokens), 1024):
        rows = (torch.from_numpy(tokens[start : start + 1024]).float() - center) / spread
        found.append(torch.stack([member(rows) for member in members]).mean(dim=0).numpy())
    return np.concatenate(found)


def family_folds(families: Sequence[str], count: int = 5, seed: int = 0) -> list[Int64Array]:
    """Return the test rows of each fold; a family is never on both sides.

    Raises:
        ValueError: there are fewer families than folds.
    """
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(count, shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(np.zeros(len(families)), groups=np.array(families))]


def save_head(
    path: Path, members: Sequence[RineHead], mean: Float32Array, scale: Float32Array, metadata: dict[str, str]
) -> None:
    """Write the ensemble as safetensors, atomically: members in half precision, the standardisation in float32."""
    from safetensors.numpy import save_file

    tensors: dict[str, AnyArray] = {"mean": mean, "scale": scale}
    for number, member in enumerate(members):
        state = {name: value.detach().numpy() for name, value in member.state_dict().items()}
        tensors |= {f"member.{number}.{name}": state[name].astype(np.float16) for name in TENSORS}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)


def to_views(tokens: Sequence[FloatArray]) -> Float16Array:
    """Return tokens [K, W] of many images as rows [N, K, W] of unit length in half precision."""
    return np.stack([unit_rows(row).astype(np.float16) for row in tokens])
