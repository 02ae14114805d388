"""``veridict evaluate``: measures the detector on labelled images, per source and per signal."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from veridict.client import DetectorClient, VeridictError
from veridict.deploy import option_types
from veridict.deploy.manifest import RepositoryError, default_repository
from veridict.forensics.errors import ImageError

from ..calibrate.document import FITTED_DIGITS
from ..datasets import Sample, find_folders, limit_per_source, read_labelled
from ..pipeline import InProcessDetector
from ..tiers import TIERS, apply_tier
from .categories import format_categories, predict_categories, read_samples, summarise_categories
from .figures import format_report, report_outcomes
from .report import write_report
from .summary import Judged, format_table, summarise, to_outcomes


def _judge_here(samples: Sequence[Sample], tier: str, repository: Path, fitted: frozenset[str]) -> Iterator[Judged]:
    detector = InProcessDetector(repository)
    for start in range(0, len(samples), 16):
        part = samples[start : start + 16]
        plain = [s.path.read_bytes() for s in part]
        files = [apply_tier(data, tier) for data in plain]
        rows = zip(part, detector.detect(files), detector.score_whole(files), plain, strict=True)
        yield from (Judged(s, v, float(w), _digits(data) in fitted) for s, v, w, data in rows)


def _judge_there(samples: Sequence[Sample], tier: str, url: str, fitted: frozenset[str]) -> Iterator[Judged]:
    with DetectorClient(url) as client:
        files = (apply_tier(s.path.read_bytes(), tier) for s in samples)
        for result in client.detect_many(files):
            if result.error is not None:
                raise result.error
            assert result.verdict is not None
            sample = samples[result.index]
            yield Judged(sample, result.verdict, fitted=_digits(sample.path.read_bytes()) in fitted)


def _digits(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:FITTED_DIGITS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, nargs="+", help="folders with real/ and fake/ below")
    what.add_argument("--labelled", type=Path, metavar="FILE.csv", help="manifest whose rows are labelled real or fake")
    what.add_argument(
        "--categories",
        type=Path,
        metavar="FILE.csv",
        help="measure categories on this manifest instead of authenticity",
    )
    parser.add_argument(
        "--sources",
        nargs="*",
        default=[],
        help="only these sources of the manifest (with --labelled: sources that begin so)",
    )
    parser.add_argument("--split", nargs="*", default=[], help="only these splits (train, val, cal, test)")
    parser.add_argument("--tiers", default="clean", help="comma-separated: clean,web,hard")
    parser.add_argument(
        "--limit", type=option_types.whole(0), default=0, help="judge at most this many images per source and class"
    )
    parser.add_argument("--url", default="", help="let this server judge, not this process")
    parser.add_argument("--repository", type=Path, default=default_repository(), help="repository for in-process runs")
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="also write a report with ROC and reliability plots"
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON, not the tables")


def _collect(arguments: argparse.Namespace) -> list[Sample]:
    """Return the labelled files of the folders or of the manifest; a file without a split belongs to every split."""
    splits = arguments.split
    if arguments.labelled is not None:
        return read_labelled(arguments.labelled, arguments.sources, splits)
    samples = [s for folder in arguments.data for s in find_folders(folder) if not splits or s.split in (*splits, "")]
    if not samples:
        raise FileNotFoundError(f"no images of split {', '.join(splits)}")
    return samples


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; return 0, 1 when judging failed, 2 on usage errors."""
    from tqdm import tqdm

    from veridict.deploy.repository import CALIBRATION
    from veridict.forensics.calibration import load_calibration

    tiers = arguments.tiers.split(",")
    if unknown := [tier for tier in tiers if tier not in TIERS]:
        print(f"veridict evaluate: unknown tier {unknown[0]!r}; there are {', '.join(TIERS)}", file=sys.stderr)
        return 2
    if arguments.categories:
        return _run_categories(arguments, tiers)
    reports: dict[str, dict[str, Any]] = {}
    judged: dict[str, list[Judged]] = {}
    try:
        samples = limit_per_source(_collect(arguments), arguments.limit)
        calibration = load_calibration(arguments.repository / CALIBRATION)
        fitted = frozenset(calibration.source.get("fitted_on", []))
        for tier in tiers:
            if arguments.url:
                judging = _judge_there(samples, tier, arguments.url, fitted)
            else:
                judging = _judge_here(samples, tier, arguments.repository, fitted)
            hidden = not sys.stderr.isatty()
            judged[tier] = list(tqdm(judging, total=len(samples), desc=tier, disable=hidden))
            reports[tier] = summarise(judged[tier])
        if arguments.report:
            write_report(arguments.report, judged, reports)
    except (ImageError, ImportError, VeridictError, RepositoryError, OSError, ValueError) as error:
        print(f"veridict evaluate: {error}", file=sys.stderr)
        return 1
    report = report_outcomes([o for tier, part in judged.items() for o in to_outcomes(part, tier)])
    if arguments.json:
        print(json.dumps({"tiers": reports, **report}, indent=1))
    else:
        print(f"{format_report(report)}\n\n{format_table(reports)}")
    return 0


def _run_categories(arguments: argparse.Namespace, tiers: Sequence[str]) -> int:
    try:
        samples = read_samples(arguments.categories, arguments.sources, arguments.limit)
        reports = {
            tier: summarise_categories(
                samples, predict_categories(samples, arguments.repository, functools.partial(apply_tier, tier=tier))
            )
            for tier in tiers
        }
    except (ImageError, RepositoryError, OSError, ValueError) as error:
        print(f"veridict evaluate: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(reports, indent=1))
    else:
        print("\n\n".join(f"Tier {tier}\n\n{format_categories(report)}" for tier, report in reports.items()))
    return 0
