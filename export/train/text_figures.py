"""Figures of a text tower: names kept back, categories of held-out sources, prompts of authenticity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from veridict.forensics.arrays import AnyArray

from ..evaluate.metrics import roc_auc
from ..models.clip_model import OPENAI_SCALE
from ..models.text_tower import TextTower, WordPieces, embed_texts
from ..prompts import read_prompts
from .settings import TextTraining
from .text_data import Anchors, EmbeddedImages


def embed_classes(tower: TextTower, pieces: WordPieces, classes: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return the bank [classes, D]: the unit-length mean of each ensemble's embeddings."""
    rows = [embed_texts(tower, pieces, list(texts)).mean(dim=0) for texts in classes]
    return nn.functional.normalize(torch.stack(rows), dim=1)


def measure_anchors(spoken: torch.Tensor, images: EmbeddedImages, anchors: Anchors) -> dict[str, Any]:
    """Return how close the tower's embeddings [names, D] are to the anchors kept back, and how they rank images.

    ``cosine_centred`` subtracts the mean of the taught names first, which all of CLIP's texts share. Ranks count from 1
    among all names. The images are those labelled with a name kept back, ranked by the tower and by the anchors.
    """
    held = torch.from_numpy(np.flatnonzero(anchors.held))
    mean = anchors.photo[torch.from_numpy(~anchors.held)].mean(dim=0)
    own, real = (nn.functional.normalize(rows - mean, dim=1) for rows in (spoken, anchors.photo))
    between = own[held] @ real.T
    ranks = 1 + (between > between[torch.arange(len(held)), held][:, None]).sum(dim=1).numpy()
    rows = {anchors.names[n].strip(): int(n) for n in held}
    shown = [i for i, name in enumerate(images.name) if name in rows]
    report: dict[str, Any] = {
        "names": len(held),
        "cosine": _rounded((spoken[held] * anchors.photo[held]).sum(dim=1)),
        "cosine_of_the_mean_name": _rounded(anchors.photo[held] @ nn.functional.normalize(mean, dim=0)),
        "cosine_centred": _rounded((own[held] * real[held]).sum(dim=1)),
        "rank_among_anchors": _ranks(ranks),
        "images": len(shown),
    }
    truth = torch.tensor([rows[images.name[i]] for i in shown], dtype=torch.int64)
    for key, bank in (("rank_by_tower", spoken), ("rank_by_clip", anchors.photo)):
        if shown:
            scores = images.embedding[torch.tensor(shown)] @ bank.T
            report[key] = _ranks(1 + (scores > scores.gather(1, truth[:, None])).sum(dim=1).numpy())
    return report


def _rounded(values: torch.Tensor) -> float:
    return round(float(values.mean()), 4)


def _ranks(ranks: AnyArray) -> dict[str, float]:
    return {
        "median": float(np.median(ranks)),
        "first": round(float(np.mean(ranks == 1)), 4),
        "among_5": round(float(np.mean(ranks <= 5)), 4),
    }


def measure_categories(
    bank: torch.Tensor, images: EmbeddedImages, names: Sequence[str], rows: Sequence[int]
) -> dict[str, Any]:
    """Return top-1 accuracy of the category bank [categories, D] on these rows: all, per category, their mean."""
    predicted = (images.embedding[torch.tensor(rows)] @ bank.T).argmax(dim=1).numpy()
    truth = images.category[list(rows)]
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
    tower: TextTower, pieces: WordPieces, images: EmbeddedImages, anchors: Anchors, settings: TextTraining
) -> dict[str, Any]:
    """Return the figures on names kept back, held-out sources and the validation split: nothing that was trained on."""
    prompts = read_prompts()
    bank = embed_classes(tower, pieces, prompts.classes())
    unseen = [
        i
        for i, (s, o) in enumerate(zip(images.split, images.source, strict=True))
        if s == "val" or o in settings.held_out
    ]
    report: dict[str, Any] = {}
    if anchors.held.any():
        spoken = embed_texts(tower, pieces, [f"a photo of a {name}" for name in anchors.names])
        report["anchors"] = measure_anchors(spoken, images, anchors)
    if rows := [i for i in unseen if images.category[i] >= 0]:
        report["categories"] = measure_categories(bank[2:], images, list(prompts.categories), rows)
    scores = (OPENAI_SCALE * images.embedding @ (bank[1] - bank[0])).numpy()
    report["authenticity"] = {}
    top = [source.split("/")[0] for source in images.source]
    for folder in sorted(set(top)):
        rows = [i for i in unseen if top[i] == folder and images.fake[i] >= 0]
        labels = images.fake[rows]
        if len(set(labels.tolist())) == 2:
            auc = roc_auc(labels, scores[rows].astype(np.float64))
            right = float(np.mean((scores[rows] > 0) == labels))
            report["authenticity"][folder] = {"count": len(rows), "auc": round(auc, 4), "accuracy": round(right, 4)}
    return report
