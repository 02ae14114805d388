"""``veridict calibrate``: the command line; :mod:`.run` does the work."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from veridict.deploy import option_types
from veridict.deploy.manifest import default_repository
from veridict.forensics.errors import ImageError

from ..evaluate.figures import format_report
from .run import calibrate
from .settings import CalibrateSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    defaults = CalibrateSettings
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders with real/ and fake/ below")
    parser.add_argument("--labelled", type=Path, help="CSV manifest with labelled rows (source, group, split, label)")
    parser.add_argument(
        "--sources",
        nargs="*",
        default=[],
        help="use only the sources of --labelled whose names begin with one of these (default: all)",
    )
    parser.add_argument("--split", nargs="*", default=[], help="splits to use (default: all)")
    parser.add_argument(
        "--head-only",
        nargs="*",
        default=[],
        metavar="SOURCE",
        help="beginnings of source names; their train split trains the head but not the fusion, because the face CNN "
        "has learnt from it",
    )
    parser.add_argument(
        "--most-head-only",
        type=option_types.whole(0),
        default=defaults.most_head_only,
        help="most images per source and label drawn from --head-only (default: %(default)s)",
    )
    parser.add_argument(
        "--scenes",
        type=option_types.whole(0),
        default=defaults.scenes,
        help="number of images drawn evenly from the sources of --manifest; they count as real (default: %(default)s)",
    )
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], help="folders of real photographs")
    parser.add_argument("--manifest", type=Path, help="CSV manifest whose photographed categories count as photographs")
    parser.add_argument(
        "--most-photographs",
        type=option_types.whole(0),
        default=defaults.most_photographs,
        help="most photographs drawn from --manifest, for percentiles only (default: %(default)s)",
    )
    parser.add_argument("--repository", type=Path, default=default_repository(), help="repository to calibrate")
    parser.add_argument("--cache", type=Path, help="folder that keeps observations; an interrupted run resumes from it")
    parser.add_argument(
        "--qualities",
        type=option_types.whole(0, 1000),
        default=defaults.qualities,
        help="randomly degraded copies per image, in addition to the quality tiers (default: %(default)s)",
    )
    parser.add_argument(
        "--landmarks",
        type=option_types.whole(1),
        default=defaults.landmarks,
        help="most images that the head compares with; its size and its fit grow with them (default: %(default)s)",
    )
    parser.add_argument(
        "--components",
        type=option_types.whole(1),
        default=defaults.components,
        help="most principal components of the tokens (default: %(default)s)",
    )
    parser.add_argument("--folds", type=option_types.whole(2, 1000), default=defaults.folds)
    parser.add_argument("--report", type=Path, help="also write the out-of-fold figures to this JSON file")
    parser.add_argument("--seed", type=option_types.whole(0, 2**32 - 1), default=defaults.seed)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate and print the out-of-fold figures; return 0, or 1 with the reason on standard error."""
    try:
        report = calibrate(CalibrateSettings(**{f.name: getattr(arguments, f.name) for f in fields(CalibrateSettings)}))
    except (ImageError, OSError, ValueError) as error:
        print(f"veridict calibrate: {error}", file=sys.stderr)
        return 1
    if arguments.report is not None:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    print(format_report(report))
    return 0
