"""Which pictures the calibration learns from: labelled ones, scenes that count as real, photographs for percentiles."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..datasets import LABELS, SUFFIXES, Sample, find_folders, read_labelled, read_manifest
from ..prompts import PHOTOGRAPHED, read_kinds

_DRAWN = "photographs"


def is_head_only(source: str, split: str, head_only: tuple[str, ...]) -> bool:
    """Return whether pictures of this source and split teach the head alone."""
    return split == "train" and source.startswith(head_only)


def draw_head_only(samples: Sequence[Sample], head_only: tuple[str, ...], most: int, seed: int) -> list[Sample]:
    """Return the samples with at most ``most`` pictures per source and label of those that teach the head alone."""
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
    """Return ``count`` pictures of known category and no authenticity label, as real ones, as evenly as sources allow.

    Raises:
        ValueError: there is no manifest.
    """
    if manifest is None:
        raise ValueError("--scenes are drawn from --manifest")
    rows = [s for s in read_manifest(manifest, read_kinds()) if s.label not in LABELS]
    rng = np.random.default_rng(seed)
    by_source: dict[str, list[Sample]] = {}
    for i in rng.permutation(len(rows)):
        by_source.setdefault(rows[i].source, []).append(rows[i])
    drawn: list[Sample] = []
    while len(drawn) < min(count, len(rows)):
        drawn += [queue.pop() for queue in by_source.values() if queue]
    kept = [replace(s, label="real", family=s.source, kind=s.category) for s in drawn[:count]]
    return sorted(kept, key=lambda s: s.path)


def collect(arguments: argparse.Namespace) -> tuple[list[Sample], list[Sample]]:
    """Return (labelled samples, photographs).

    Raises:
        FileNotFoundError: a folder has no fitting image, or nothing labelled was named.
        ValueError: the manifest has no such row.
    """
    labelled = [s for root in arguments.data for s in find_folders(root)]
    labelled = [s for s in labelled if not arguments.split or s.split in arguments.split or not s.split]
    if arguments.labelled is not None:
        known = {s.path.resolve() for s in labelled}
        rows = read_labelled(arguments.labelled, arguments.sources, arguments.split)
        labelled += [s for s in rows if s.path.resolve() not in known]
    if arguments.scenes:
        labelled += draw_scenes(arguments.manifest, arguments.scenes, arguments.seed)
    labelled = draw_head_only(labelled, tuple(arguments.head_only), arguments.most_head_only, arguments.seed)
    photographs = [
        Sample(path, "real", f"photographs/{root.name}", "")
        for root in arguments.photographs
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if arguments.manifest is not None:
        drawn = [s for s in read_manifest(arguments.manifest, read_kinds()) if s.category in PHOTOGRAPHED]
        rng = np.random.default_rng(arguments.seed)
        chosen = rng.permutation(len(drawn))[: arguments.most_photographs]
        photographs += [Sample(drawn[i].path, "real", _DRAWN, "") for i in sorted(chosen)]
    if len({s.label for s in labelled}) < 2:
        raise FileNotFoundError(f"no labelled images of both classes of split {arguments.split or 'any'}")
    return labelled, photographs
