"""The images that ``veridict train face-cnn`` learns from, drawn, mixed and augmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from veridict.forensics.arrays import Pixels

from ..datasets import LABELS, Sample, by_source, find_folders, read_image
from ..models.face_cnn import SIZE
from . import augment
from .settings import FaceTraining

#: Pixels uint8 [crop, crop, 3], the label 0..1, the labels of the cells [crop/16, crop/16].
Draw = tuple[torch.Tensor, float, torch.Tensor]
#: Side in pixels of the square that a cell of the network's last feature map covers, and the label of unlabelled cells.
_CELL = 16
_UNKNOWN = -1.0


class FaceSamples(Dataset[Draw]):
    """Draws sources in proportion to the root of their size and both classes evenly; augments each draw separately."""

    def __init__(self, settings: FaceTraining, samples: list[Sample]) -> None:
        """Index the samples and keep the decoded pixels in memory as they are first used."""
        self.settings = settings
        self.epoch = 0
        groups = by_source(samples)
        self.groups = [[[s for s in g if s.label == label] for label in LABELS] for g in groups.values()]
        self.whole = [source in settings.whole_fakes for source in groups]
        weights = np.sqrt([len(g) for g in groups.values()])
        weights *= [dict(settings.emphasis).get(source, 1.0) for source in groups]
        self.weights = weights / weights.sum()
        self.cache: dict[Path, Pixels] = {}

    def __len__(self) -> int:
        """Return the number of draws that make an epoch."""
        return self.settings.samples_per_epoch

    def read(self, sample: Sample) -> Pixels:
        """Return the decoded pixels, at most 288 on the longest side."""
        if sample.path not in self.cache:
            self.cache[sample.path] = read_image(sample.path, 288)
        return self.cache[sample.path]

    def __getitem__(self, index: int) -> Draw:
        """Return (pixels uint8 [crop, crop, 3], label 0..1, cell labels [crop/16, crop/16]).

        A pure function of (seed, epoch, index). Cells without a label are -1. For several images in one, the label is
        the share that is fake.
        """
        rng = np.random.default_rng((self.settings.seed, self.epoch, index))
        chosen = rng.choice(len(self.groups), p=self.weights)
        group, whole = self.groups[chosen], self.whole[chosen]
        label = index % 2
        if whole and rng.random() < self.settings.mosaic:
            return self._mosaic(group, rng)
        blended = label == 1 and (not group[1] or rng.random() < self.settings.self_blend) and bool(group[0])
        pool = group[0] if blended else (group[label] or group[1 - label])
        sample = pool[rng.integers(len(pool))]
        image = self.read(sample)
        if blended:
            image = augment.self_blend(image, rng)
        crop = self.settings.crop
        view = augment.augment_face(image, rng, SIZE, crop)
        target = 1.0 if blended else float(LABELS[sample.label])
        cells = np.full((crop // _CELL, crop // _CELL), target if whole or target == 0 else _UNKNOWN, np.float32)
        if whole and not blended and group[0] and group[1] and rng.random() < self.settings.mix:
            pool = group[rng.integers(2)]
            other = pool[rng.integers(len(pool))]
            pasted = augment.augment_face(self.read(other), rng, SIZE, crop)
            view, mask = augment.paste_region(view, pasted, rng)
            fake = mask * LABELS[other.label] + (1.0 - mask) * target
            cells = fake.reshape(crop // _CELL, _CELL, crop // _CELL, _CELL).mean(axis=(1, 3), dtype=np.float32)
            target = float(fake.mean())
        elif blended:
            cells[:] = _UNKNOWN
        return torch.from_numpy(np.ascontiguousarray(view)), target, torch.from_numpy(cells)

    def _mosaic(self, group: list[list[Sample]], rng: np.random.Generator) -> Draw:
        """Return a draw of four images in one: fakes from ``group``, real ones from ``group`` or any other source."""
        crop = self.settings.crop
        side = crop // _CELL
        row, column = (int(rng.integers(3, side - 2)) for _ in range(2))
        view = np.empty((crop, crop, 3), np.uint8)
        cells = np.empty((side, side), np.float32)
        for rows in (slice(0, row), slice(row, side)):
            for columns in (slice(0, column), slice(column, side)):
                fake = int(rng.random() < 0.5)
                pool = group[fake]
                if not fake and rng.random() < 0.4:
                    pool = self.groups[rng.integers(len(self.groups))][0]
                sample = pool[rng.integers(len(pool))]
                height, width = ((s.stop - s.start) * _CELL for s in (rows, columns))
                tile = augment.augment_face(self.read(sample), rng, SIZE, max(height, width))
                view[rows.start * _CELL : rows.stop * _CELL, columns.start * _CELL : columns.stop * _CELL] = tile[
                    :height, :width
                ]
                cells[rows, columns] = fake
        if rng.random() < 0.5:
            view = augment.recompress(view, int(rng.integers(60, 96)), bool(rng.random() < 0.7))
        return torch.from_numpy(view), float(cells.mean()), torch.from_numpy(cells)


def read_face_data(settings: FaceTraining) -> tuple[list[Sample], list[Sample]]:
    """Return the training and the validation samples; both splits of a source left out are for validation.

    Raises:
        FileNotFoundError: a split holds no image.
        ValueError: the settings name an unknown source.
    """
    train, validation = find_folders(settings.data, "train"), find_folders(settings.data, "val")
    if settings.leave_out:
        validation += [s for s in train if s.source == settings.leave_out]
        train = [s for s in train if s.source != settings.leave_out]
    known = {s.source for s in train}
    for source in [*(name for name, _ in settings.emphasis), *settings.whole_fakes]:
        if source not in known:
            raise ValueError(f"no training source is called {source!r}; there are {', '.join(sorted(known))}")
    return train, validation
