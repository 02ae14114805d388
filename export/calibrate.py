"""``veridict calibrate``: fits everything the calibration file holds, from labelled images and real photographs.

Percentiles come from real photographs, each also shrunk so that every size class is filled. The linear head on the
CLIP embedding and the fusion weights are logistic regressions (L2); the head's scores that the fusion sees are
out-of-fold, and so are the figures printed, of the whole fit: no image is judged by weights it shaped.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, default_repository, load_prompt_bank, write_manifest
from veridict.deploy.repository import read_manifest as read_repository_manifest
from veridict.forensics.calibration import FORENSIC, SCHEMA, Percentiles
from veridict.forensics.errors import ImageError
from veridict.forensics.fusion import Observation

from .datasets import LABELS, SUFFIXES, Sample, find_folders, read_manifest
from .metrics import bootstrap, expected_calibration_error, roc_auc, score
from .pipeline import InProcessDetector
from .prompts import read_kinds

Floats = npt.NDArray[np.float64]
SIZE_EDGES = (256.0, 448.0)
QUANTILES = 41
TERMS = ("clip", "clip_head", "face", *FORENSIC)
READINGS = {"low": 10.0, "high": 90.0}
REAL_ACCURACY = 0.96
UNCERTAIN_SHARE = 0.15
_FOLDS = 5
_DRAWN = "photographs"
_PHOTOGRAPHED = (
    "person",
    "animal",
    "food",
    "plant",
    "vehicle",
    "building",
    "landscape",
    "street",
    "interior",
    "object",
)


@dataclass(frozen=True)
class Table:
    """One row per image: term values (NaN where they do not apply), embeddings, labels, sources and sample weights.

    ``general`` marks the rows the linear head learns from; face sets would teach it what the face CNN does better.
    """

    values: Floats
    embeddings: Floats
    labels: npt.NDArray[np.int64]
    sources: list[str]
    weights: Floats
    general: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.int64]) -> Table:
        """Return the rows as a table of their own."""
        sources = [self.sources[i] for i in rows]
        weights, general = self.weights[rows], self.general[rows]
        return Table(self.values[rows], self.embeddings[rows], self.labels[rows], sources, weights, general)


@dataclass(frozen=True)
class Fusion:
    """A fitted head and fusion: what the calibration file's ``clip`` and ``fusion`` sections hold."""

    head: Floats
    head_bias: float
    weights: Floats
    centers: Floats
    scales: Floats
    bias: float

    def head_scores(self, embeddings: Floats) -> Floats:
        """Return the linear head's logits [N] of embeddings [N, D]."""
        return np.asarray(embeddings @ self.head + self.head_bias, dtype=np.float64)

    def logits(self, values: Floats) -> Floats:
        """Return fused logits [N] of term values [N, T], before the forensic cap; absent terms add nothing."""
        z = np.nan_to_num(np.clip((values - self.centers) / self.scales, -4, 4))
        return np.asarray(z @ self.weights + self.bias, dtype=np.float64)


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


def tabulate(
    seen: Sequence[Observation],
    samples: Sequence[Sample],
    percentiles: dict[str, Percentiles],
    repository: Path,
    head_sources: Sequence[str] = (),
) -> Table:
    """Return the fusion's table; the ``clip_head`` column is NaN until a head is fitted."""
    bank = load_prompt_bank(repository / PROMPT_BANK)
    rows = []
    for observation in seen:
        logits = bank.similarities(observation.embedding)
        longest = max(observation.image.width, observation.image.height)
        row = {"clip": float(logits[1] - logits[0]), "clip_head": float("nan"), "face": float("nan")}
        if observation.face_logits:
            row["face"] = max(observation.face_logits)
        for name in FORENSIC:
            value = observation.measurements[name].value
            share = float("nan") if value is None else percentiles[name].percentile(value, longest)
            row[name] = share / 50.0 - 1.0
        rows.append([row[name] for name in TERMS])
    labels = np.array([LABELS[s.label] for s in samples])
    sources = [s.source for s in samples]
    counts = Counter(zip(sources, labels.tolist(), strict=True))
    # Every source and class weighs by the root of its size, and both classes weigh the same.
    raw = np.array([1.0 / math.sqrt(counts[key]) for key in zip(sources, labels.tolist(), strict=True)])
    for label in (0, 1):
        raw[labels == label] *= 0.5 * len(raw) / raw[labels == label].sum()
    embeddings = np.stack([o.embedding for o in seen]).astype(np.float64)
    general = np.array([not head_sources or s in head_sources for s in sources])
    return Table(np.array(rows), embeddings, labels, sources, raw, general)


def _folds(table: Table, seed: int) -> list[npt.NDArray[np.int64]]:
    from sklearn.model_selection import StratifiedKFold

    keys = [f"{s}/{y}" for s, y in zip(table.sources, table.labels, strict=True)]
    splitter = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(np.zeros(len(keys)), keys)]


def _logistic(x: Floats, table: Table, strength: float) -> tuple[Floats, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000).fit(x, table.labels, sample_weight=table.weights)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def _head(table: Table, strength: float) -> tuple[Floats, float]:
    """Return weights [D] and bias of the linear head, fitted on the general rows' standardised embeddings."""
    part = table.take(np.flatnonzero(table.general))
    center, scale = part.embeddings.mean(axis=0), part.embeddings.std(axis=0) + 1e-9
    weights, bias = _logistic((part.embeddings - center) / scale, part, strength)
    return weights / scale, bias - float((weights / scale) @ center)


def fit_fusion(table: Table, head_strength: float, seed: int = 0) -> Fusion:
    """Fit the head and the fusion on one table; the fusion learns from out-of-fold head scores."""
    values = table.values.copy()
    at = TERMS.index("clip_head")
    everything = np.arange(len(table.labels))
    for test in _folds(table, seed):
        part = table.take(np.setdiff1d(everything, test))
        head, bias = _head(part, head_strength)
        values[test, at] = table.embeddings[test] @ head + bias
    real = table.labels == 0
    # A signal that no real image has (no face in the whole set, say) gets no say: center 0, and zeros to learn from.
    known = ~np.isnan(values[real]).all(axis=0)
    values[:, ~known] = np.nan
    centers, scales = np.zeros(len(TERMS)), np.ones(len(TERMS))
    centers[known] = np.nanmean(values[real][:, known], axis=0)
    scales[known] = np.maximum(np.nanstd(values[:, known], axis=0), 1e-6)
    z = np.nan_to_num(np.clip((values - centers) / scales, -4, 4))
    weights, bias = _logistic(z, table, 1.0)
    head, head_bias = _head(table, head_strength)
    return Fusion(head, head_bias, weights, centers, scales, bias)


def predict_out_of_fold(table: Table, head_strength: float, seed: int = 1) -> Floats:
    """Return fake probabilities [N]: each image's come from a whole fit that never saw it."""
    result = np.zeros(len(table.labels))
    everything = np.arange(len(table.labels))
    for test in _folds(table, seed):
        fitted = fit_fusion(table.take(np.setdiff1d(everything, test)), head_strength)
        values = table.values[test].copy()
        values[:, TERMS.index("clip_head")] = fitted.head_scores(table.embeddings[test])
        result[test] = 1.0 / (1.0 + np.exp(-fitted.logits(values)))
    return result


def choose_threshold(labels: npt.NDArray[np.int64], probabilities: Floats) -> tuple[float, tuple[float, float]]:
    """Return the threshold that keeps real-photo accuracy at 96% (at least 0.5), and the uncertain band about it.

    The band holds the 15% of images whose logits lie nearest the threshold.
    """
    threshold = float(np.clip(np.quantile(probabilities[labels == 0], REAL_ACCURACY), 0.5, 0.95))
    logits = np.log(np.clip(probabilities, 1e-9, 1 - 1e-9) / np.clip(1 - probabilities, 1e-9, 1))
    center = math.log(threshold / (1 - threshold))
    half = float(np.quantile(np.abs(logits - center), UNCERTAIN_SHARE))
    low, high = (1.0 / (1.0 + math.exp(-(center + sign * half))) for sign in (-1, 1))
    return threshold, (low, high)


def figures(table: Table, probabilities: Floats, threshold: float) -> dict[str, Any]:
    """Return out-of-fold figures, over all images and per source."""
    result: dict[str, Any] = {}
    for source in ["all", *sorted(set(table.sources))]:
        rows = np.array([i for i, s in enumerate(table.sources) if source in ("all", s)])
        y, p = table.labels[rows], probabilities[rows]
        entry: dict[str, Any] = {
            k: None if v != v else round(v, 4) for k, v in score(y, p, threshold).to_dict().items()
        }
        if 0 < y.sum() < y.size:
            entry["roc_auc_95"] = [round(v, 4) for v in bootstrap(y, p, roc_auc)]
            entry["ece"] = round(expected_calibration_error(y, p), 4)
        result[source] = entry
    return result


def build_document(
    fitted: Fusion,
    percentiles: dict[str, Percentiles],
    temperature: float,
    threshold: float,
    band: tuple[float, float],
    source: dict[str, Any],
) -> dict[str, Any]:
    """Return the calibration document."""
    needed = math.log(threshold / (1 - threshold)) - fitted.bias
    terms = {
        name: {"weight": float(w), "center": float(c), "scale": float(s)}
        for name, w, c, s in zip(TERMS, fitted.weights, fitted.centers, fitted.scales, strict=True)
    }
    return {
        "schema": SCHEMA,
        "source": source,
        "threshold": threshold,
        "band": list(band),
        "readings": READINGS,
        # Half of what a conviction needs: forensic evidence tips a balance, it never makes the verdict.
        "fusion": {"bias": fitted.bias, "forensic_cap": max(0.0, needed / 2), "terms": terms},
        "clip": {"temperature": temperature, "head": [float(v) for v in fitted.head], "head_bias": fitted.head_bias},
        "percentiles": {
            name: {"edges": list(p.edges), "values": [[round(v, 4) for v in row] for row in p.values]}
            for name, p in percentiles.items()
        },
    }


def fit_temperature(table: Table) -> float:
    """Return the temperature that makes the zero-shot softmax most likely on the labels (Guo et al. 2017)."""
    margins = table.values[:, TERMS.index("clip")]
    signs = 2.0 * table.labels - 1.0
    grid = np.geomspace(0.25, 64.0, 97)
    losses = [float((table.weights * np.logaddexp(0.0, -signs * margins / t)).mean()) for t in grid]
    return float(grid[int(np.argmin(losses))])


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
    parser.add_argument("--head-strength", type=float, default=0.03, help="inverse L2 strength of the linear head")
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
        rows = [s for s in read_manifest(arguments.manifest, read_kinds()) if s.category in _PHOTOGRAPHED]
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
        seen = _observe(detector, [s.path.read_bytes() for s in labelled], "labelled images")
        known = {s.path.resolve() for s in labelled}
        extra = [i for i, s in enumerate(photographs) if s.source != _DRAWN and s.path.resolve() not in known]
        samples = [*labelled, *(photographs[i] for i in extra)]
        table = tabulate(
            [*seen, *(own[i] for i in extra)], samples, percentiles, arguments.repository, arguments.head_sources
        )
        probabilities = predict_out_of_fold(table, arguments.head_strength)
        threshold, band = choose_threshold(table.labels, probabilities)
        fitted = fit_fusion(table, arguments.head_strength)
        report = figures(table, probabilities, threshold)
        counts = {
            f"{s}/{'fake' if y else 'real'}": n
            for (s, y), n in Counter(zip(table.sources, table.labels.tolist(), strict=True)).items()
        }
        source = {"images": dict(sorted(counts.items())), "seed": arguments.seed, "out_of_fold": report}
        document = build_document(fitted, percentiles, fit_temperature(table), threshold, band, source)
        (arguments.repository / CALIBRATION).write_text(json.dumps(document, indent=1) + "\n")
        write_manifest(arguments.repository, read_repository_manifest(arguments.repository).source)
    except (ImageError, OSError, ValueError) as error:
        print(f"veridict calibrate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1))
    return 0
