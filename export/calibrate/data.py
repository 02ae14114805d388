"""The images a calibration uses: labelled ones, scenes that count as real, and photographs for percentiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..datasets import LABELS, SUFFIXES, Sample, find_folders, read_categorised, read_labelled
from ..prompts import PHOTOGRAPHED, read_kinds
from .settings import CalibrateSettings

_DRAWN = "photographs"


def is_head_only(source: str, split: str, head_only: tuple[str, ...]) -> bool:
    """Return whether images of this source and split train the head but not the fusion."""
    return split == "train" and source.startswith(head_only)


def draw_head_only(samples: Sequence[Sample], head_only: tuple[str, ...], most: int, seed: int) -> list[Sample]:
    """Return the samples, with at most ``most`` per source and label of those that train the head only."""
    counts: Counter[tuple[str, str]] = Counter()
    left_out = set()
    for i in np.random.default_rng(seed).permutation(len(samples)).tolist():
        sample = samples[i]
        if is_head_only(sample.source, sample.split, head_only):
            counts[sample.source, sample.label] += 1
            if counts[sample.source, sample.label] > most:
                left_out.add(i)
    return [sample for i, sample in enumerate(samples) if i not in left_out]


def draw_scenes(manifest: Path | None, count: int, seed: int) -> list[Sample]:
    """Return ``count`` images without an authenticity label, labelled real, drawn evenly from the sources.

    Raises:
        ValueError: there is no manifest.
    """
    if manifest is None:
        raise ValueError("--scenes are drawn from --manifest")
    rows = [s for s in read_categorised(manifest, read_kinds()) if s.label not in LABELS]
    rng = np.random.default_rng(seed)
    by_source: dict[str, list[Sample]] = {}
    for i in rng.permutation(len(rows)):
        by_source.setdefault(rows[i].source, []).append(rows[i])
    drawn: list[Sample] = []
    while len(drawn) < min(count, len(rows)):
        drawn += [queue.pop() for queue in by_source.values() if queue]
    kept = [replace(s, label="real", family=s.source, kind=s.category) for s in drawn[:count]]
    return sorted(kept, key=lambda s: s.path)


def collect_images(settings: CalibrateSettings) -> tuple[list[Sample], list[Sample]]:
    """Return (labelled samples, photographs).

    Raises:
        FileNotFoundError: a folder has no fitting image, or nothing labelled was named.
        ValueError: the manifest has no such row.
    """
    labelled = [s for root in settings.data for s in find_folders(root)]
    labelled = [s for s in labelled if not settings.split or s.split in settings.split or not s.split]
    if settings.labelled is not None:
        known = {s.path.resolve() for s in labelled}
        rows = read_labelled(settings.labelled, settings.sources, settings.split)
        labelled += [s for s in rows if s.path.resolve() not in known]
    if settings.scenes:
        labelled += draw_scenes(settings.manifest, settings.scenes, settings.seed)
    labelled = draw_head_only(labelled, tuple(settings.head_only), settings.most_head_only, settings.seed)
    photographs = [
        Sample(path, "real", f"photographs/{root.name}", "")
        for root in settings.photographs
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if settings.manifest is not None:
        drawn = [s for s in read_categorised(settings.manifest, read_kinds()) if s.category in PHOTOGRAPHED]
        rng = np.random.default_rng(settings.seed)
        chosen = rng.permutation(len(drawn))[: settings.most_photographs]
        photographs += [Sample(drawn[i].path, "real", _DRAWN, "") for i in sorted(chosen)]
    if len({s.label for s in labelled}) < 2:
        raise FileNotFoundError(f"no labelled images of both classes of split {settings.split or 'any'}")
    return labelled, photographs
