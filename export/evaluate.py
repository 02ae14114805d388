"""``veridict evaluate``: the figures of the detector on labelled images, per source and per signal."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.client import DetectorClient, VeridictError
from veridict.deploy.repository import RepositoryError, default_repository
from veridict.forensics.contract import Verdict
from veridict.forensics.errors import ImageError
from veridict.forensics.fusion import sigmoid

from .datasets import LABELS, Sample, find_folders
from .metrics import bootstrap, expected_calibration_error, roc_auc, score
from .pipeline import InProcessDetector

#: Tier -> (longest side at most, JPEG quality); None leaves the bytes as they are.
TIERS: dict[str, tuple[int, int] | None] = {"clean": None, "web": (768, 60), "hard": (512, 40)}
SIGNALS = ("fused", "clip", "clip_head", "face", "ela", "blur", "noise")


@dataclass(frozen=True)
class Judged:
    """One evaluated image: its sample and the verdict."""

    sample: Sample
    verdict: Verdict


def apply_tier(data: bytes, tier: str) -> bytes:
    """Return the file as a platform of that tier would hand it over."""
    from PIL import Image, ImageOps

    setting = TIERS[tier]
    if setting is None:
        return data
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((setting[0], setting[0]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=setting[1])
    return buffer.getvalue()


def _judge_here(samples: Sequence[Sample], tier: str, repository: Path) -> Iterator[Judged]:
    detector = InProcessDetector(repository)
    for start in range(0, len(samples), 16):
        part = samples[start : start + 16]
        verdicts = detector.detect([apply_tier(s.path.read_bytes(), tier) for s in part])
        yield from (Judged(s, v) for s, v in zip(part, verdicts, strict=True))


def _judge_there(samples: Sequence[Sample], tier: str, url: str) -> Iterator[Judged]:
    with DetectorClient(url) as client:
        files = (apply_tier(s.path.read_bytes(), tier) for s in samples)
        for result in client.detect_many(files):
            if result.error is not None:
                raise result.error
            assert result.verdict is not None
            yield Judged(samples[result.index], result.verdict)


def signal_score(verdict: Verdict, signal: str) -> float:
    """Return one signal's fake score; NaN where it does not apply. Forensic signals count by their percentile."""
    if signal == "fused":
        return verdict.fake_probability
    if signal in verdict.forensics:
        percentile = verdict.forensics[signal].percentile
        return float("nan") if percentile is None else percentile
    values = [e.value for e in verdict.evidence if e.signal == signal and e.value is not None]
    return sigmoid(values[0]) if values else float("nan")


def summarise(judged: Sequence[Judged], threshold: float) -> dict[str, Any]:
    """Return figures per source and over all: every signal's AUC with its interval, and the fused figures."""
    report: dict[str, Any] = {}
    for source in ["all", *sorted({j.sample.source for j in judged})]:
        part = [j for j in judged if source in ("all", j.sample.source)]
        labels = np.array([LABELS[j.sample.label] for j in part])
        report[source] = _figures(part, labels, threshold)
    return report


def _figures(part: Sequence[Judged], labels: npt.NDArray[np.int64], threshold: float) -> dict[str, Any]:
    fused = np.array([j.verdict.fake_probability for j in part])
    entry: dict[str, Any] = {k: _plain(v) for k, v in score(labels, fused, threshold).to_dict().items()}
    entry["threshold"] = threshold
    entry["ece"] = _plain(expected_calibration_error(labels, fused))
    entry["uncertain"] = _plain(sum(j.verdict.confidence == "low" for j in part) / len(part))
    entry["faces_found"] = _plain(sum(bool(j.verdict.faces) for j in part) / len(part))
    entry["signals"] = {}
    for signal in SIGNALS:
        values = np.array([signal_score(j.verdict, signal) for j in part])
        known = ~np.isnan(values)
        y, v = labels[known], values[known]
        if 0 < y.sum() < y.size:
            interval = [_plain(x) for x in bootstrap(y, v, roc_auc, rounds=300)]
            entry["signals"][signal] = {"count": int(y.size), "roc_auc": _plain(roc_auc(y, v)), "interval": interval}
    return entry


def _plain(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return None if value != value else round(float(value), 4)


def format_table(reports: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table: one row per tier and source."""
    lines = [
        "| tier | source | images | AUC (95%) | accuracy | real accuracy | F1 | ECE | CLIP AUC | head AUC | face AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    def auc(entry: dict[str, Any], signal: str, with_interval: bool = False) -> str:
        found = entry["signals"].get(signal)
        if found is None:
            return "-"
        low, high = found["interval"]
        return f"{found['roc_auc']:.3f}" + (f" ({low:.3f}-{high:.3f})" if with_interval else "")

    def plain(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for tier, report in reports.items():
        for source, entry in report.items():
            cells = [tier, source, str(entry["count"]), auc(entry, "fused", True)]
            cells += [plain(entry[k]) for k in ("accuracy", "real_accuracy", "f1", "ece")]
            cells += [auc(entry, s) for s in ("clip", "clip_head", "face")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with real/ and fake/ below")
    parser.add_argument("--split", default="", help="only this split (train, val, cal, test)")
    parser.add_argument("--tiers", default="clean", help="comma-separated: clean,web,hard")
    parser.add_argument("--limit", type=int, default=0, help="judge at most this many images per source and class")
    parser.add_argument("--url", default="", help="judge on this server instead of in process")
    parser.add_argument("--repository", type=Path, default=default_repository(), help="repository for in-process runs")
    parser.add_argument("--json", action="store_true", help="the whole report as JSON instead of the table")


def _limited(samples: Sequence[Sample], limit: int) -> list[Sample]:
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for sample in samples:
        key = (sample.source, sample.label)
        counts[key] = counts.get(key, 0) + 1
        if not limit or counts[key] <= limit:
            kept.append(sample)
    return kept


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; return 0, 1 when judging failed, 2 on usage errors."""
    from tqdm import tqdm

    from veridict.deploy.repository import CALIBRATION
    from veridict.forensics.calibration import load_calibration

    tiers = arguments.tiers.split(",")
    if unknown := [tier for tier in tiers if tier not in TIERS]:
        print(f"veridict evaluate: unknown tier {unknown[0]!r}; there are {', '.join(TIERS)}", file=sys.stderr)
        return 2
    reports = {}
    try:
        samples = _limited([s for d in arguments.data for s in find_folders(d, arguments.split)], arguments.limit)
        threshold = load_calibration(arguments.repository / CALIBRATION).threshold
        for tier in tiers:
            if arguments.url:
                judging = _judge_there(samples, tier, arguments.url)
            else:
                judging = _judge_here(samples, tier, arguments.repository)
            hidden = not sys.stderr.isatty()
            reports[tier] = summarise(list(tqdm(judging, total=len(samples), desc=tier, disable=hidden)), threshold)
    except (ImageError, VeridictError, RepositoryError, OSError, ValueError) as error:
        print(f"veridict evaluate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(reports, indent=1) if arguments.json else format_table(reports))
    return 0
