"""What checking stability is worth on labelled images, and what it costs.

``python -m veridict.export.evaluate.stability MANIFEST.csv --split val --tiers clean,web --per-source 1`` judges every
image with its re-encodings, and prints a row per tier: confident errors before and after, right answers that lose their
confidence, and the time of a verdict over that without the check.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veridict.deploy import option_types
from veridict.deploy.manifest import default_repository
from veridict.forensics.contract import Verdict
from veridict.forensics.policy import StabilityPolicy

from ..datasets import Sample, limit_per_source, read_labelled
from ..pipeline import InProcessDetector
from ..tiers import TIERS, apply_tier

_BATCH = 8
_COLUMNS = (
    "tier",
    "images",
    "errors",
    "confident errors before",
    "after",
    "confident right answers before",
    "after",
    "time",
)


@dataclass(frozen=True)
class StabilityFigures:
    """Counts of answers; ``_before``: as without the check. ``ratio``: seconds with the check over those without."""

    images: int
    errors: int
    confident_errors_before: int
    confident_errors: int
    confident_right_before: int
    confident_right: int
    ratio: float


def count_answers(labels: Sequence[str], verdicts: Sequence[Verdict], ratio: float) -> StabilityFigures:
    """Return the figures of verdicts with stability; ``labels`` are real or fake."""
    wrong = [(v.verdict == "deepfake") != (label == "fake") for label, v in zip(labels, verdicts, strict=True)]
    before = [set(v.doubts) <= {"unstable"} for v in verdicts]
    after = [v.confidence == "high" for v in verdicts]
    return StabilityFigures(
        len(wrong),
        sum(wrong),
        sum(w and c for w, c in zip(wrong, before, strict=True)),
        sum(w and c for w, c in zip(wrong, after, strict=True)),
        sum(c and not w for w, c in zip(wrong, before, strict=True)),
        sum(c and not w for w, c in zip(wrong, after, strict=True)),
        ratio,
    )


def measure(samples: Sequence[Sample], tier: str, repository: Path) -> StabilityFigures:
    """Judge every image with and without the check.

    Raises:
        ImageError: an image is refused.
    """
    detector = InProcessDetector(repository)
    plain = detector.judgement
    policy = dataclasses.replace(plain.policy, stability=StabilityPolicy("always"))
    checking = dataclasses.replace(plain, policy=policy)
    seconds = {False: 0.0, True: 0.0}
    verdicts: list[Verdict] = []
    for start in range(0, len(samples), _BATCH):
        files = [apply_tier(sample.path.read_bytes(), tier) for sample in samples[start : start + _BATCH]]
        for check in (False, True) if start % (2 * _BATCH) else (True, False):
            detector.judgement = checking if check else plain
            began = time.perf_counter()
            found = detector.detect(files)
            seconds[check] += time.perf_counter() - began
            if check:
                verdicts += found
    return count_answers([sample.label for sample in samples], verdicts, seconds[True] / seconds[False])


def format_figures(tier: str, figures: StabilityFigures) -> str:
    """Return one row of the Markdown table."""
    *counts, ratio = dataclasses.astuple(figures)
    return f"| {' | '.join([tier, *map(str, counts), f'{ratio:.2f} x'])} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m veridict.export.evaluate.stability", description=__doc__)
    parser.add_argument("manifest", type=Path, metavar="FILE.csv", help="manifest whose rows are labelled real or fake")
    parser.add_argument("--split", nargs="+", default=["val"], help="splits to judge (default: val)")
    parser.add_argument("--tiers", default="clean", help=f"comma-separated: {','.join(TIERS)}")
    parser.add_argument("--per-source", type=option_types.whole(1), default=1, help="images per source and label")
    parser.add_argument("--repository", type=Path, default=default_repository(), help="model repository")
    arguments = parser.parse_args(argv)
    tiers = arguments.tiers.split(",")
    if unknown := [tier for tier in tiers if tier not in TIERS]:
        parser.error(f"unknown tier {unknown[0]!r}; there are {', '.join(TIERS)}")
    samples = limit_per_source(read_labelled(arguments.manifest, splits=arguments.split), arguments.per_source)
    print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}")
    for tier in tiers:
        print(format_figures(tier, measure(samples, tier, arguments.repository)), flush=True)


if __name__ == "__main__":
    main()
