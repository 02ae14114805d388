"""Top-1 accuracy of the image category on a labelled manifest, per category and source."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..datasets import Sample, read_categorised
from ..pipeline import InProcessDetector
from ..prompts import read_kinds

#: Categories that count as one in ``top1_documents_merged``.
MERGED = {"screenshot": "document", "document": "document"}


def read_samples(manifest: Path, sources: Sequence[str], limit: int) -> list[Sample]:
    """Return the manifest's rows of known category: at most ``limit`` per source and category (0: all).

    Raises:
        ValueError: a source does not occur, or no row is left.
    """
    rows = read_categorised(manifest, read_kinds())
    if unknown := set(sources) - {s.source for s in rows}:
        raise ValueError(f"{manifest} has no source {sorted(unknown)[0]!r}")
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in rows:
        if sources and row.source not in sources:
            continue
        seen[row.source, row.category] += 1
        if not limit or seen[row.source, row.category] <= limit:
            kept.append(row)
    if not kept:
        raise ValueError(f"{manifest} has no image of a known category")
    return kept


def predict_categories(samples: Sequence[Sample], repository: Path, change: Callable[[bytes], bytes]) -> list[str]:
    """Return the detector's category for each file; ``change`` is applied to the bytes first."""
    from tqdm import tqdm

    detector = InProcessDetector(repository)
    labels = []
    for start in tqdm(range(0, len(samples), 16), desc="categories", disable=not sys.stderr.isatty()):
        files = [change(s.path.read_bytes()) for s in samples[start : start + 16]]
        labels += [v.category.label for v in detector.detect(files)]
    return labels


def summarise_categories(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, Any]:
    """Return counts and top-1 accuracy per category and over all, also with document and screenshot merged."""
    names = sorted({s.category for s in samples})
    report: dict[str, Any] = {"count": len(samples), "categories": {}}
    hits, merged = [], []
    for sample, label in zip(samples, labels, strict=True):
        hits.append(label == sample.category)
        merged.append(MERGED.get(label, label) == MERGED.get(sample.category, sample.category))
    for name in names:
        rows = [i for i, s in enumerate(samples) if s.category == name]
        wrong = Counter(labels[i] for i in rows if labels[i] != name)
        report["categories"][name] = {
            "count": len(rows),
            "top1": round(sum(hits[i] for i in rows) / len(rows), 4),
            "mistaken_for": dict(wrong.most_common(3)),
        }
    report["top1"] = round(sum(hits) / len(hits), 4)
    report["top1_documents_merged"] = round(sum(merged) / len(merged), 4)
    report["top1_mean_over_categories"] = round(sum(c["top1"] for c in report["categories"].values()) / len(names), 4)
    return report


def format_categories(report: dict[str, Any]) -> str:
    """Return a Markdown table."""
    lines = ["| category | images | top-1 | mistaken for |", "| --- | --- | --- | --- |"]
    for name, entry in report["categories"].items():
        wrong = ", ".join(f"{k} {v}" for k, v in entry["mistaken_for"].items()) or "-"
        lines.append(f"| {name} | {entry['count']} | {entry['top1']:.2f} | {wrong} |")
    lines.append(f"| all images | {report['count']} | {report['top1']:.3f} | |")
    lines.append(f"| document and screenshot as one | | {report['top1_documents_merged']:.3f} | |")
    lines.append(f"| mean over categories | | {report['top1_mean_over_categories']:.3f} | |")
    return "\n".join(lines)
