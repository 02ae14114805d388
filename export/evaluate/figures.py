"""The figures of judged images: by quality tier, split, kind of image, generator family and source."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..bundled import DATA
from .metrics import bootstrap, expected_calibration_error, roc_auc

#: Smaller groups of fakes or of real images are not listed by themselves.
_FEWEST = 12


@dataclass(frozen=True)
class ImageOutcome:
    """How one image was judged: its label (1 = fake), the verdict, whether its confidence is high, and its origin.

    ``generator`` is the data set's name of what made a fake, or of what a real image shows.
    """

    label: int
    probability: float
    called_fake: bool
    sure: bool
    tier: str
    source: str
    family: str = ""
    split: str = ""
    generator: str = ""
    kind: str = ""

    @property
    def right(self) -> bool:
        """Whether the verdict is right."""
        return self.called_fake == bool(self.label)


@cache
def _generator_patterns() -> list[tuple[str, re.Pattern[str]]]:
    document: dict[str, str] = json.loads((DATA / "generators.json").read_text())
    return [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in document.items()]


def generator_family(generator: str) -> str:
    """Return the family of a generator's name: the first of ``data/generators.json`` whose pattern occurs in it."""
    return next((name for name, pattern in _generator_patterns() if pattern.search(generator)), "other or not named")


def figures(outcomes: Sequence[ImageOutcome]) -> dict[str, Any]:
    """Return the figures of some images; None where a class is absent.

    ``roc_auc_95`` is a bootstrap interval over images; ``high`` is the share of verdicts of high confidence.
    """
    labels = np.array([o.label for o in outcomes])
    values = np.array([o.probability for o in outcomes])
    right, sure = np.array([o.right for o in outcomes]), np.array([o.sure for o in outcomes])
    both = 0 < labels.sum() < labels.size
    return {
        "images": len(outcomes),
        "real": int((labels == 0).sum()),
        "fake": int(labels.sum()),
        "roc_auc": _plain(roc_auc(labels, values)) if both else None,
        "roc_auc_95": [_plain(v) for v in bootstrap(labels, values, roc_auc, rounds=200)] if both else None,
        "accuracy": _plain(right.mean()),
        "real_accuracy": _plain(right[labels == 0].mean()) if (labels == 0).any() else None,
        "recall": _plain(right[labels == 1].mean()) if labels.any() else None,
        "ece": _plain(expected_calibration_error(labels, values)) if both else None,
        "high": _plain(sure.mean()),
        "high_accuracy": _plain(right[sure].mean()) if sure.any() else None,
    }


def _plain(value: float) -> float:
    return round(float(value), 4)


def _grouped(outcomes: Sequence[ImageOutcome], key: Callable[[ImageOutcome], str]) -> dict[str, list[ImageOutcome]]:
    groups: dict[str, list[ImageOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return dict(sorted(groups.items()))


def source_set(source: str) -> str:
    """Return the set of a source: ``wild`` or ``scenes`` for all sources below these, else the source itself."""
    return source.split("/")[0] if source.startswith(("wild/", "scenes/")) else source


def report_outcomes(outcomes: Sequence[ImageOutcome]) -> dict[str, Any]:
    """Return figures per tier (``summary``: all, by set, split and kind), per generator, and per source (first tier).

    A generator family's AUC is that of its fakes against every real image.
    """
    tiers = _grouped(outcomes, lambda o: o.tier)
    order = [t for t in dict.fromkeys(o.tier for o in outcomes)]
    summary: dict[str, Any] = {}
    for tier in order:
        part = tiers[tier]
        groups = {"all": part}
        groups |= {f"split {k}": v for k, v in _grouped(part, lambda o: o.split).items() if k}
        groups |= {f"set {k}": v for k, v in _grouped(part, lambda o: source_set(o.source)).items()}
        groups |= {f"kind {k}": v for k, v in _grouped(part, lambda o: o.kind).items() if k}
        summary[tier] = {name: figures(group) for name, group in groups.items()}
    generators: dict[str, Any] = {}
    for tier in order:
        real = [o for o in tiers[tier] if not o.label]
        fakes = _grouped([o for o in tiers[tier] if o.label], lambda o: generator_family(o.generator))
        for name, group in fakes.items():
            if len(group) >= _FEWEST and real:
                both = figures([*group, *real])
                own = figures(group)
                entry = {"fakes": len(group), "roc_auc": both["roc_auc"], "recall": own["recall"]}
                generators.setdefault(name, {})[tier] = entry
    sources = {
        name: {k: v for k, v in figures(group).items() if k in ("images", "accuracy", "high", "high_accuracy")}
        for name, group in _grouped(tiers[order[0]], lambda o: o.source).items()
        if len(group) >= _FEWEST
    }
    return {"summary": summary, "generators": generators, "sources": sources}


def format_report(report: dict[str, Any], worst: int = 15) -> str:
    """Return Markdown tables: the summary, the generator families, and the sources judged worst."""
    lines = [
        "| tier | group | images | AUC (95%) | accuracy | real accuracy | recall | ECE | high | high right |",
        "| --- " * 10 + "|",
    ]

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for tier, groups in report["summary"].items():
        for name, entry in groups.items():
            auc = "-"
            if entry["roc_auc"] is not None:
                low, high = entry["roc_auc_95"]
                auc = f"{entry['roc_auc']:.3f} ({low:.3f}-{high:.3f})"
            names = ("accuracy", "real_accuracy", "recall", "ece", "high", "high_accuracy")
            lines.append(
                "| " + " | ".join([tier, name, str(entry["images"]), auc, *(cell(entry[n]) for n in names)]) + " |"
            )
    tiers = list(report["summary"])
    if report["generators"]:
        head = " | ".join(f"{t} AUC | {t} recall" for t in tiers)
        lines += ["", f"| generator family | fakes | {head} |", "| --- " * (2 + 2 * len(tiers)) + "|"]
        for name, entry in sorted(report["generators"].items(), key=lambda item: item[1][tiers[0]]["roc_auc"]):
            cells = [cell(entry.get(t, {}).get(k)) for t in tiers for k in ("roc_auc", "recall")]
            lines.append("| " + " | ".join([name, str(entry[tiers[0]]["fakes"]), *cells]) + " |")
    if report["sources"]:
        ranked = sorted(report["sources"].items(), key=lambda item: item[1]["accuracy"])[:worst]
        lines += ["", "| source judged worst | images | accuracy |", "| --- | --- | --- |"]
        lines += [f"| {name} | {entry['images']} | {entry['accuracy']:.2f} |" for name, entry in ranked]
    return "\n".join(lines)
