"""The images that ``veridict train tower`` learns from and is measured on, as served views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from veridict.forensics.arrays import Int64Array, Pixels
from veridict.forensics.decode import decode_image
from veridict.forensics.preprocess import shrink_for_views
from veridict.forensics.views import clip_view

from ..calibrate.observations import RANDOM, degrade_file, read_quality
from ..calibrate.token_head import source_weights
from ..datasets import LABELS, Sample, read_labelled
from ..tiers import apply_tier

#: Qualities that images are measured in: the file as it is, and a degradation that is the same every time.
QUALITIES = ("clean", RANDOM)


@dataclass(frozen=True)
class TowerData:
    """Training images, and validation images of other sources: half decide early stopping, half only judge.

    A family of sources is in one of the three only. ``excluded`` is the number of validation images that are left out
    because their source or family is in ``train``.
    """

    train: list[Sample]
    deciding: list[Sample]
    judging: list[Sample]
    excluded: int


def read_tower_data(labelled: Path, sources: Sequence[str], most: int, seed: int) -> TowerData:
    """Return the images of a labelled manifest; ``most`` bounds those of each half of the validation.

    Raises:
        ValueError: a beginning in ``sources`` fits no source, a split is missing, or a part lacks real or fake images.
    """
    train = read_labelled(labelled, sources, ("train",))
    val = read_labelled(labelled, sources, ("val",))
    known = {name for sample in train for name in (sample.source, sample.family)}
    unseen = [s for s in val if s.source not in known and s.family not in known]
    deciding, judging = _halve(unseen, seed)
    for what, part in (("train", train), ("val (deciding half)", deciding), ("val (judging half)", judging)):
        if {s.label for s in part} != set(LABELS):
            raise ValueError(f"{what} needs real and fake images of sources and families that no other part has")
    deciding, judging = (draw_images(part, most, seed) for part in (deciding, judging))
    return TowerData(train, deciding, judging, len(val) - len(unseen))


def _halve(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return two halves by family; families of real, of fake and of both kinds of images alternate between them."""
    held: dict[str, set[str]] = {}
    for sample in samples:
        held.setdefault(sample.family, set()).add(sample.label)
    side: dict[str, int] = {}
    for labels in ({"real"}, {"fake"}, {"real", "fake"}):
        alike = sorted(family for family, found in held.items() if found == labels)
        for turn, row in enumerate(np.random.default_rng(seed).permutation(len(alike))):
            side[alike[row]] = turn % 2
    first, second = ([s for s in samples if side[s.family] == number] for number in (0, 1))
    return first, second


def labels_of(samples: Sequence[Sample]) -> Int64Array:
    """Return 0 for real and 1 for fake, [N]."""
    return np.array([LABELS[s.label] for s in samples], np.int64)


def draw_images(samples: Sequence[Sample], most: int, seed: int) -> list[Sample]:
    """Return at most ``most`` images, half of each label if there are enough; sources by the root of their size."""
    labels = labels_of(samples)
    weights = source_weights(labels, [s.source for s in samples])
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    for label in (0, 1):
        side = np.flatnonzero(labels == label)
        count = min(len(side), most // 2)
        kept += rng.choice(side, count, replace=False, p=weights[side] / weights[side].sum()).tolist()
    return [samples[i] for i in sorted(kept)]


def read_view(sample: Sample, change: Callable[[bytes], bytes]) -> Pixels:
    """Return the view [224, 224, 3] uint8 of a file after ``change``, made as it is made when served.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    try:
        return clip_view(shrink_for_views(decode_image(change(sample.path.read_bytes())).preview))
    except (OSError, ValueError) as error:
        raise ValueError(f"{sample.path} cannot be read: {error}") from error


class Draws(Dataset[tuple[torch.Tensor, int]]):
    """Training views by number; even numbers are real, odd ones fake, so half of a batch of even size is real.

    A source is drawn in proportion to the root of its size. Each draw is the image as it is or, with probability
    ``degraded``, freshly degraded. It is a pure function of (seed, step, index in the batch), so a resumed run sees the
    same draws as one that was not interrupted.
    """

    def __init__(self, samples: Sequence[Sample], batch: int, degraded: float, seed: int) -> None:
        """Index the samples."""
        self.samples, self.batch, self.degraded, self.seed = samples, batch, degraded, seed
        labels = labels_of(samples)
        weights = source_weights(labels, [s.source for s in samples])
        self.sides = [np.flatnonzero(labels == label) for label in (0, 1)]
        self.ends = [np.cumsum(weights[side]) for side in self.sides]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        """Return (pixels uint8 [224, 224, 3], label)."""
        step, index = divmod(number, self.batch)
        rng = np.random.default_rng((self.seed, step, index))
        label = index % 2
        side, ends = self.sides[label], self.ends[label]
        chosen = min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(side) - 1)
        degraded, seed = rng.random() < self.degraded, int(rng.integers(2**48))

        def change(data: bytes) -> bytes:
            return degrade_file(data, seed) if degraded else apply_tier(data, "clean")

        return torch.from_numpy(read_view(self.samples[side[chosen]], change)), label


class FixedViews(Dataset[torch.Tensor]):
    """Every sample in every quality of :data:`QUALITIES`, the same every time: pixels uint8 [224, 224, 3]."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Keep the samples."""
        self.samples = samples

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.samples) * len(QUALITIES)

    def __getitem__(self, number: int) -> torch.Tensor:
        """Return one view."""
        row, quality = divmod(number, len(QUALITIES))
        sample = self.samples[row]
        return torch.from_numpy(read_view(sample, lambda _: read_quality(sample, QUALITIES[quality])))
