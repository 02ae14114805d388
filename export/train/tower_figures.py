"""Figures of a tuned tower against the frozen one: heads of one recipe, zero-shot labels, categories, embedding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from veridict.forensics.arrays import AnyArray, Float16Array, Float32Array, Float64Array, Int64Array
from veridict.forensics.judgement import PromptBank

from ..calibrate.token_head import Tokens, standardisation, to_views
from ..datasets import Sample
from ..evaluate.metrics import roc_auc
from .lora import TunedEncoder
from .rine import RineHead, RineSettings, score_rows, train_member
from .tower_data import QUALITIES, FixedViews, labels_of

_READ_BATCH = 32
#: Losses that count as rounding: of zero-shot AUC, and the share of images with another category.
_LOST_AUC, _CHANGED = 0.002, 0.01


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is CUDA if there is a device.

    Raises:
        ValueError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device was found; --device cpu trains without one")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def pays_half(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware; otherwise it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


@dataclass(frozen=True)
class Machine:
    """Hardware of a run: the device, whether blocks run in bfloat16, and the number of processes that read images."""

    device: torch.device
    half: bool
    workers: int

    @classmethod
    def choose(cls, name: str, workers: int | None = None) -> Machine:
        """Return the machine for a device's name; when the CPU trains, one process reads."""
        device = choose_device(name)
        most = max(1, (os.cpu_count() or 2) - 1) if device.type == "cuda" else 1
        return cls(device, pays_half(device), most if workers is None else workers)


@dataclass(frozen=True)
class Seen:
    """A tower's output for P images in V qualities: embeddings [P, V, D] float32, tokens [P, V, K, W] float16."""

    embedding: Float32Array
    tokens: Float16Array


@torch.inference_mode()
def see(encoder: TunedEncoder, samples: Sequence[Sample], machine: Machine) -> Seen:
    """Return the tower's output for the samples in every quality; tokens have unit length."""
    embeddings, tokens = [], []
    for pixels in DataLoader(FixedViews(samples), _READ_BATCH, num_workers=machine.workers):
        embedding, rows = encoder(pixels.to(machine.device))
        embeddings.append(embedding.cpu().numpy())
        tokens.append(to_views(list(rows.cpu().numpy())))
    shape = (len(samples), len(QUALITIES))
    embedding, views = np.concatenate(embeddings), np.concatenate(tokens)
    return Seen(embedding.reshape(*shape, -1), views.reshape(*shape, *views.shape[1:]))


@dataclass(frozen=True)
class Recipe:
    """The head by which towers are compared: members and their standardisation [K, W]."""

    members: list[RineHead]
    mean: Float32Array
    scale: Float32Array

    def scores(self, seen: Seen) -> Float32Array:
        """Return logits [P, V]."""
        flat = seen.tokens.reshape(-1, *seen.tokens.shape[2:])
        return score_rows(self.members, self.mean, self.scale, flat).reshape(seen.tokens.shape[:2])


def fit_recipe(seen: Seen, samples: Sequence[Sample], settings: RineSettings, seed: int) -> Recipe:
    """Train the head with which the towers are compared."""
    sources, families = tuple(s.source for s in samples), tuple(s.family for s in samples)
    data = Tokens(seen.tokens, labels_of(samples), sources, families)
    mean, scale = standardisation(data)
    members = [train_member(data, mean, scale, seed + n, settings) for n in range(settings.members)]
    return Recipe(members, mean, scale)


def view_aucs(labels: Int64Array, scores: AnyArray) -> dict[str, float]:
    """Return the AUC of scores [P, V] per quality, and their mean."""
    found = {q: roc_auc(labels, scores[:, v].astype(np.float64)) for v, q in enumerate(QUALITIES)}
    return found | {"mean": float(np.mean(list(found.values())))}


def zero_shot(bank: PromptBank, embeddings: Float32Array) -> tuple[Float64Array, Int64Array]:
    """Return the margin of deepfake over real and the category's index, each [P, V], of embeddings [P, V, D]."""
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    logits = np.stack([bank.similarities(row) for row in flat]).reshape(*embeddings.shape[:2], -1)
    return logits[..., 1] - logits[..., 0], logits[..., 2:].argmax(axis=-1)


def gain_interval(
    samples: Sequence[Sample], before: AnyArray, after: AnyArray, rounds: int = 500, seed: int = 0
) -> list[float]:
    """Return the 95% interval of the gain in mean AUC of logits [P, V], resampling whole families of sources."""
    rng, labels = np.random.default_rng(seed), labels_of(samples)
    families: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        families.setdefault(sample.family, []).append(row)
    groups = list(families.values())
    gains = []
    for _ in range(rounds):
        rows = np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))]).astype(np.int64)
        gains.append(view_aucs(labels[rows], after[rows])["mean"] - view_aucs(labels[rows], before[rows])["mean"])
    low, high = np.nanpercentile(gains, [2.5, 97.5])
    return [float(low), float(high)]


def compare_towers(
    frozen: dict[str, torch.Tensor], recipe: Recipe, judging: Seen, samples: Sequence[Sample], bank: PromptBank
) -> dict[str, Any]:
    """Return the figures of the shipping rule: the tuned tower against the frozen one, each with a head of one recipe.

    ``frozen`` holds the frozen tower's ``judging`` logits [P, V] and ``embeddings`` [P, V, D] of the samples.
    """
    before, after = frozen["judging"].numpy(), recipe.scores(judging)
    labels, was = labels_of(samples), frozen["embeddings"].numpy()
    (old_margin, old_category), (margin, category) = (zero_shot(bank, rows) for rows in (was, judging.embedding))
    cosines = (was * judging.embedding).sum(axis=-1)
    towers = {
        name: {"auc": view_aucs(labels, scores), "zero_shot_auc": view_aucs(labels, margins)}
        for name, scores, margins in (("frozen", before, old_margin), ("tuned", after, margin))
    }
    gain = towers["tuned"]["auc"]["mean"] - towers["frozen"]["auc"]["mean"]
    interval = gain_interval(samples, before, after)
    kept = towers["tuned"]["zero_shot_auc"]["mean"] >= towers["frozen"]["zero_shot_auc"]["mean"] - _LOST_AUC
    agreement = float((old_category == category).mean())
    rule = {"beats_frozen": interval[0] > 0, "zero_shot_kept": kept, "categories_kept": agreement >= 1 - _CHANGED}
    return towers | {
        "gain": gain,
        "gain_interval": interval,
        "embedding_cosine": {"mean": float(cosines.mean()), "lowest": float(cosines.min())},
        "category_agreement": agreement,
        "rule": rule,
        "ships": all(rule.values()),
    }
