"""A small differentiable head of RINE's form, with which towers are tuned and compared.

The served head is a kernel machine (:mod:`veridict.export.calibrate.token_head`), which is better and cannot be trained
together with a tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from veridict.forensics.arrays import Float16Array, Float32Array

from ..calibrate.token_head import Tokens, source_weights


@dataclass(frozen=True)
class RineSettings:
    """How a head is trained."""

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

    def __init__(self, blocks: int, width: int, settings: RineSettings) -> None:
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


def train_member(
    data: Tokens,
    mean: Float32Array,
    scale: Float32Array,
    seed: int,
    settings: RineSettings = RineSettings(),
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
