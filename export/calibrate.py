"""``veridict calibrate``: fits everything the calibration file holds, from labelled images and real photographs.

Percentiles come from real photographs, each also shrunk so that every size class is filled. Heads, fusion and
threshold are fitted (see ``fitting``) on every labelled picture in each quality tier.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, default_repository, load_prompt_bank, write_manifest
from veridict.deploy.repository import read_manifest as read_repository_manifest
from veridict.forensics.calibration import FORENSIC, SCHEMA, Percentiles
from veridict.forensics.errors import ImageError
from veridict.forensics.fusion import Observation

from .datasets import SUFFIXES, Sample, find_folders, read_manifest
from .fitting import (
    CLOSE_UP_SHARE,
    HEAD_STRENGTH,
    TERMS,
    Floats,
    Fusion,
    Head,
    RegimeFit,
    Table,
    choose_threshold,
    fit_fusion,
    fit_temperature,
    predict_out_of_fold,
    tabulate,
)
from .metrics import bootstrap, expected_calibration_error, roc_auc, score
from .pipeline import InProcessDetector
from .prompts import PHOTOGRAPHED, read_kinds
from .tiers import TIERS, apply_tier

SIZE_EDGES = (256.0, 448.0)
QUANTILES = 41
READINGS = {"low": 10.0, "high": 90.0}
#: Leading hexadecimal digits of a picture's sha256 by which the file remembers what it was fitted on.
FITTED_DIGITS = 10
_DRAWN = "photographs"


def shrink(data: bytes, longest: int) -> bytes | None:
    """Return the photograph as a JPEG of quality 90 with the given longest side, or None when it is smaller."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= longest:
            return None
        small = image.convert("RGB")
        small.thumbnail((longest, longest), Image.Resampling.BOX)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def fit_percentiles(seen: Sequence[Observation]) -> dict[str, Percentiles]:
    """Return, per forensic signal, its quantiles over photographs in each size class.

    Raises:
        ValueError: a size class has fewer than 30 photographs.
    """
    result = {}
    for name in FORENSIC:
        rows: list[list[float]] = [[] for _ in range(len(SIZE_EDGES) + 1)]
        for observation in seen:
            value = observation.measurements[name].value
            if value is not None:
                longest = max(observation.image.width, observation.image.height)
                rows[int(np.searchsorted(SIZE_EDGES, longest, side="right"))].append(value)
        if min(len(row) for row in rows) < 30:
            raise ValueError(f"too few photographs for {name}: {[len(r) for r in rows]} per size class, 30 are needed")
        steps = np.linspace(0, 1, QUANTILES)
        result[name] = Percentiles(SIZE_EDGES, tuple(tuple(float(v) for v in np.quantile(r, steps)) for r in rows))
    return result


def figures(table: Table, probabilities: Floats, threshold: float) -> dict[str, Any]:
    """Return out-of-fold figures per tier, over all pictures and per source."""
    report: dict[str, Any] = {}
    for tier in dict.fromkeys(table.tiers):
        report[tier] = {}
        for source in ["all", *sorted(set(table.sources))]:
            pairs = zip(table.sources, table.tiers, strict=True)
            rows = np.array([i for i, (s, t) in enumerate(pairs) if t == tier and source in ("all", s)])
            y, p = table.labels[rows], probabilities[rows]
            entry: dict[str, Any] = {
                k: None if v != v else round(v, 4) for k, v in score(y, p, threshold).to_dict().items()
            }
            if 0 < y.sum() < y.size:
                entry["roc_auc_95"] = [round(v, 4) for v in bootstrap(y, p, roc_auc)]
                entry["ece"] = round(expected_calibration_error(y, p), 4)
            report[tier][source] = entry
    return report


def _regime_document(fit: RegimeFit, threshold: float) -> dict[str, Any]:
    needed = math.log(threshold / (1 - threshold)) - fit.bias
    terms = {
        name: {"weight": float(w), "center": float(c), "scale": float(s)}
        for name, w, c, s in zip(TERMS, fit.weights, fit.centers, fit.scales, strict=True)
    }
    # Half of what a conviction needs: forensic evidence tips a balance, it never makes the verdict.
    return {"bias": fit.bias, "forensic_cap": max(0.0, needed / 2), "terms": terms}


def _head_document(head: Head) -> dict[str, Any]:
    return {"weights": [float(v) for v in head.weights], "bias": head.bias}


def build_document(
    fitted: Fusion,
    percentiles: dict[str, Percentiles],
    temperature: float,
    threshold: float,
    band: tuple[float, float],
    source: dict[str, Any],
) -> dict[str, Any]:
    """Return the calibration document."""
    return {
        "schema": SCHEMA,
        "source": source,
        "threshold": threshold,
        "band": list(band),
        "readings": READINGS,
        "fusion": {
            "close_up_share": CLOSE_UP_SHARE,
            "close_up": _regime_document(fitted.close_up, threshold),
            "general": _regime_document(fitted.general, threshold),
        },
        "clip": {
            "temperature": temperature,
            "head": _head_document(fitted.heads["clip_head"]),
            "layers_head": _head_document(fitted.heads["clip_layers"]),
        },
        "texture": {"head": _head_document(fitted.heads["texture"])},
        "percentiles": {
            name: {"edges": list(p.edges), "values": [[round(v, 4) for v in row] for row in p.values]}
            for name, p in percentiles.items()
        },
    }


def _observe(detector: InProcessDetector, files: Sequence[bytes], what: str) -> list[Observation]:
    from tqdm import tqdm

    seen: list[Observation] = []
    for start in tqdm(range(0, len(files), 16), desc=what, disable=not sys.stderr.isatty()):
        seen += detector.observe(files[start : start + 16])
    return seen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with real/ and fake/ below")
    parser.add_argument("--split", nargs="*", default=["val", "cal"], help="splits to use (default: val cal)")
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], help="folders of real photographs")
    parser.add_argument("--manifest", type=Path, help="CSV manifest whose photographed categories count as photographs")
    parser.add_argument(
        "--most-photographs", type=int, default=700, help="drawn from the manifest, for percentiles only"
    )
    parser.add_argument(
        "--head-sources", nargs="*", default=[], help="sources the linear head learns from (default: all)"
    )
    parser.add_argument("--repository", type=Path, default=default_repository(), help="repository to calibrate")
    parser.add_argument(
        "--head-strength", type=float, default=HEAD_STRENGTH, help="inverse L2 strength of the linear heads"
    )
    parser.add_argument("--seed", type=int, default=0)


def collect(arguments: argparse.Namespace) -> tuple[list[Sample], list[Sample]]:
    """Return (labelled samples, photographs).

    Raises:
        FileNotFoundError: a folder has no fitting image.
    """
    labelled = [s for root in arguments.data for s in find_folders(root) if s.split in arguments.split or not s.split]
    photographs = [
        Sample(path, "real", f"photographs/{root.name}", "")
        for root in arguments.photographs
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if arguments.manifest is not None:
        rows = [s for s in read_manifest(arguments.manifest, read_kinds()) if s.category in PHOTOGRAPHED]
        rng = np.random.default_rng(arguments.seed)
        chosen = rng.permutation(len(rows))[: arguments.most_photographs]
        photographs += [Sample(rows[i].path, "real", _DRAWN, "") for i in sorted(chosen)]
    if not labelled:
        raise FileNotFoundError(f"no labelled image of split {arguments.split} in {arguments.data}")
    return labelled, photographs


def run(arguments: argparse.Namespace) -> int:
    """Fit, write the calibration into the repository and print out-of-fold figures; return 0, or 1 with the reason."""
    try:
        labelled, photographs = collect(arguments)
        detector = InProcessDetector(arguments.repository, needs_calibration=False)
        files = [s.path.read_bytes() for s in photographs]
        own = _observe(detector, files, "photographs")
        sizes = [small for data in files for longest in (224, 384) if (small := shrink(data, longest)) is not None]
        percentiles = fit_percentiles([*own, *_observe(detector, sizes, "shrunk photographs")])
        known = {s.path.resolve() for s in labelled}
        samples = [*labelled, *(s for s in photographs if s.source != _DRAWN and s.path.resolve() not in known)]
        seen: list[Observation] = []
        for tier in TIERS:
            seen += _observe(detector, [apply_tier(s.path.read_bytes(), tier) for s in samples], f"{tier} images")
        tiers = [tier for tier in TIERS for _ in samples]
        bank = load_prompt_bank(arguments.repository / PROMPT_BANK)
        table = tabulate(seen, samples * len(TIERS), tiers, percentiles, bank, arguments.head_sources)
        probabilities = predict_out_of_fold(table, arguments.head_strength)
        threshold, band = choose_threshold(table, probabilities)
        fitted = fit_fusion(table, arguments.head_strength)
        report = figures(table, probabilities, threshold)
        counts = Counter(f"{s.source}/{s.label}" for s in samples)
        fitted_on = sorted({o.image.sha256[:FITTED_DIGITS] for o in seen[: len(samples)]})
        source = {"images": dict(sorted(counts.items())), "seed": arguments.seed}
        source |= {"head_strength": arguments.head_strength, "out_of_fold": report, "fitted_on": fitted_on}
        document = build_document(fitted, percentiles, fit_temperature(table), threshold, band, source)
        (arguments.repository / CALIBRATION).write_text(json.dumps(document, indent=1) + "\n")
        write_manifest(arguments.repository, read_repository_manifest(arguments.repository).source)
    except (ImageError, OSError, ValueError) as error:
        print(f"veridict calibrate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1))
    return 0
