"""What ``veridict evaluate`` reports: figures per source and per signal, as a document and as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from veridict.forensics.arrays import Float64Array, Int64Array
from veridict.forensics.contract import Verdict
from veridict.forensics.logits import sigmoid
from veridict.forensics.signals import TERMS

from ..datasets import LABELS, Sample
from .figures import ImageOutcome, source_set
from .metrics import best_threshold, bootstrap, expected_calibration_error, roc_auc, score

#: The fused verdict, then each signal alone. ``face_whole`` is the face CNN on the whole file, for sets of face crops.
COLUMNS = ("fused", *TERMS, "face_whole")


@dataclass(frozen=True)
class Judged:
    """One evaluated image: its sample and its verdict.

    ``whole`` is the face CNN's logit of the whole file, NaN when a server judged it. ``fitted`` says whether the
    calibration was fitted on this file.
    """

    sample: Sample
    verdict: Verdict
    whole: float = float("nan")
    fitted: bool = False


def signal_score(judged: Judged, signal: str) -> float:
    """Return one signal's fake score; NaN where it does not apply. Forensic signals count by their percentile."""
    verdict = judged.verdict
    if signal == "fused":
        return verdict.fake_probability
    if signal == "face_whole":
        return sigmoid(judged.whole) if judged.whole == judged.whole else float("nan")
    if signal in verdict.forensics:
        percentile = verdict.forensics[signal].percentile
        return float("nan") if percentile is None else percentile
    values = [e.value for e in verdict.evidence if e.signal == signal and e.value is not None]
    return sigmoid(values[0]) if values else float("nan")


def summarise(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return figures per set of sources and over all: of every signal, and of the verdicts as given."""
    report: dict[str, Any] = {}
    for name in ["all", *sorted({source_set(j.sample.source) for j in judged})]:
        part = [j for j in judged if name in ("all", source_set(j.sample.source))]
        report[name] = _figures(part, np.array([LABELS[j.sample.label] for j in part]))
    return report


def to_outcomes(judged: Sequence[Judged], tier: str) -> list[ImageOutcome]:
    """Return the outcomes, from which the tables by generator, source and kind of image are made."""
    return [
        ImageOutcome(
            label=LABELS[j.sample.label],
            probability=j.verdict.fake_probability,
            called_fake=j.verdict.verdict == "deepfake",
            sure=j.verdict.confidence == "high",
            tier=tier,
            source=j.sample.source,
            family=j.sample.family,
            split=j.sample.split,
            generator=j.sample.kind,
            kind=j.verdict.category.label,
        )
        for j in judged
    ]


def _figures(part: Sequence[Judged], labels: Int64Array) -> dict[str, Any]:
    fused = np.array([j.verdict.fake_probability for j in part])
    predicted = np.array([j.verdict.verdict == "deepfake" for j in part])
    entry: dict[str, Any] = {k: plain(v) for k, v in score(labels, predicted.astype(np.float64), 0.5).to_dict().items()}
    entry["roc_auc"] = plain(roc_auc(labels, fused))
    entry["confusion"] = {
        "real_as_real": int((~predicted & (labels == 0)).sum()),
        "real_as_fake": int((predicted & (labels == 0)).sum()),
        "fake_as_real": int((~predicted & (labels == 1)).sum()),
        "fake_as_fake": int((predicted & (labels == 1)).sum()),
    }
    entry["best"] = _scores(labels, fused, best_threshold(labels, fused))
    entry["ece"] = plain(expected_calibration_error(labels, fused))
    entry["fitted"] = sum(j.fitted for j in part)
    entry["uncertain"] = plain(sum(j.verdict.confidence == "low" for j in part) / len(part))
    entry["faces_found"] = plain(sum(bool(j.verdict.faces) for j in part) / len(part))
    entry["signals"] = {}
    for signal in COLUMNS:
        values = np.array([signal_score(j, signal) for j in part])
        known = ~np.isnan(values)
        y, v = labels[known], values[known]
        if 0 < y.sum() < y.size:
            interval = [plain(x) for x in bootstrap(y, v, roc_auc, rounds=300)]
            entry["signals"][signal] = {"count": int(y.size), "roc_auc": plain(roc_auc(y, v)), "interval": interval}
            if signal in ("face", "face_whole"):  # these are probabilities, so the threshold 0.5 has a meaning
                entry["signals"][signal]["at_half"] = _scores(y, v, 0.5)
    return entry


def _scores(labels: Int64Array, values: Float64Array, threshold: float) -> dict[str, Any]:
    return {k: plain(v) for k, v in score(labels, values, threshold).to_dict().items()} | {
        "threshold": plain(threshold)
    }


def plain(value: float) -> float | None:
    """Return a number for a document: integers as they are, 4 decimals, None for NaN."""
    if isinstance(value, int):
        return value
    return None if value != value else round(float(value), 4)


def format_table(reports: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table of each signal's AUC: one row per tier and set of sources."""
    columns = COLUMNS
    lines = [
        "| tier | set | images | fitted on | " + " | ".join(f"{c} AUC" for c in columns) + " |",
        "| --- " * (4 + len(columns)) + "|",
    ]
    for tier, report in reports.items():
        for name, entry in report.items():
            found = [entry["signals"].get(signal) for signal in columns]
            cells = ["-" if f is None else f"{f['roc_auc']:.3f}" for f in found]
            lines.append("| " + " | ".join([tier, name, str(entry["count"]), str(entry["fitted"]), *cells]) + " |")
    return "\n".join(lines)
