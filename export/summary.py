"""What ``veridict evaluate`` reports: figures per source and per signal, as a document and as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.forensics.contract import Verdict
from veridict.forensics.fusion import sigmoid

from .datasets import LABELS, Sample
from .metrics import best_threshold, bootstrap, expected_calibration_error, roc_auc, score

#: The fused answer, then each signal alone; ``face_whole`` is the face CNN on the whole file, for sets of face crops.
SIGNALS = ("fused", "clip", "clip_head", "clip_layers", "texture", "face", "face_whole", "ela", "blur", "noise")


@dataclass(frozen=True)
class Judged:
    """One evaluated image: its sample, the verdict, and what else is known of it.

    ``whole`` is the face CNN's logit of the whole file (NaN when judged by a server); ``fitted`` says that the
    calibration was fitted on this very file.
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


def summarise(judged: Sequence[Judged], threshold: float) -> dict[str, Any]:
    """Return figures per source and over all: every signal's, and the fused ones at the threshold and at the best."""
    report: dict[str, Any] = {}
    for source in ["all", *sorted({j.sample.source for j in judged})]:
        part = [j for j in judged if source in ("all", j.sample.source)]
        report[source] = _figures(part, np.array([LABELS[j.sample.label] for j in part]), threshold)
    return report


def _figures(part: Sequence[Judged], labels: npt.NDArray[np.int64], threshold: float) -> dict[str, Any]:
    fused = np.array([j.verdict.fake_probability for j in part])
    entry: dict[str, Any] = _scores(labels, fused, threshold)
    predicted = fused >= threshold
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
    for signal in SIGNALS:
        values = np.array([signal_score(j, signal) for j in part])
        known = ~np.isnan(values)
        y, v = labels[known], values[known]
        if 0 < y.sum() < y.size:
            interval = [plain(x) for x in bootstrap(y, v, roc_auc, rounds=300)]
            entry["signals"][signal] = {"count": int(y.size), "roc_auc": plain(roc_auc(y, v)), "interval": interval}
            if signal in ("face", "face_whole"):  # probabilities of their own, so 0.5 means something
                entry["signals"][signal]["at_half"] = _scores(y, v, 0.5)
    return entry


def _scores(labels: npt.NDArray[np.int64], values: npt.NDArray[np.float64], threshold: float) -> dict[str, Any]:
    return {k: plain(v) for k, v in score(labels, values, threshold).to_dict().items()} | {
        "threshold": plain(threshold)
    }


def plain(value: float) -> float | None:
    """Return a number for a document: integers as they are, 4 decimals, None for NaN."""
    if isinstance(value, int):
        return value
    return None if value != value else round(float(value), 4)


def format_table(reports: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table: one row per tier and source."""
    columns = ("clip", "clip_head", "clip_layers", "texture", "face", "face_whole")
    lines = [
        "| tier | source | images | fitted on | AUC (95%) | accuracy | real accuracy | F1 | ECE | "
        + " | ".join(f"{c} AUC" for c in columns)
        + " |",
        "| --- " * (9 + len(columns)) + "|",
    ]

    def auc(entry: dict[str, Any], signal: str, with_interval: bool = False) -> str:
        found = entry["signals"].get(signal)
        if found is None:
            return "-"
        low, high = found["interval"]
        return f"{found['roc_auc']:.3f}" + (f" ({low:.3f}-{high:.3f})" if with_interval else "")

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for tier, report in reports.items():
        for source, entry in report.items():
            cells = [tier, source, str(entry["count"]), str(entry["fitted"]), auc(entry, "fused", True)]
            cells += [cell(entry[k]) for k in ("accuracy", "real_accuracy", "f1", "ece")]
            cells += [auc(entry, s, s == "face_whole") for s in columns]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
