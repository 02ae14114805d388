"""``veridict calibrate``: fits all that judges on top of the networks, from labelled pictures and photographs.

The head on CLIP's class tokens is trained and cross-validated by family of sources; fusion, thresholds and uncertain
bands are fitted on its out-of-fold scores (see ``fitting``), on every labelled picture in each quality tier.
Percentiles come from real photographs, each also shrunk so that every size class is filled. Everything is fitted on
what the served networks say of files prepared as they are when served.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, default_repository, load_prompt_bank, write_manifest
from veridict.deploy.repository import read_manifest as read_repository_manifest
from veridict.forensics.calibration import (
    CLOSE_UP,
    HEAD_FILE,
    OTHER,
    SCHEMA,
    SUSPECT,
    Calibration,
    Doubt,
    Percentiles,
    Regime,
)
from veridict.forensics.errors import ImageError
from veridict.forensics.fusion import PromptBank, sigmoid
from veridict.forensics.token_head import load_token_head

from ..evaluate.figures import Outcome, report_outcomes
from ..pipeline import InProcessDetector
from ..prompts import read_prompts
from ..tiers import TIERS
from .data import collect, is_head_only
from .fitting import (
    CLOSE_UP_SHARE,
    GENERAL,
    SUSPECT_LOGIT,
    Fusion,
    Table,
    choose_bands,
    choose_thresholds,
    fit_fusion,
    fit_temperature,
    tabulate,
)
from .observations import RANDOM, observe_samples
from .percentiles import photograph_percentiles
from .token_head import (
    HeadSettings,
    Tokens,
    family_folds,
    save_head,
    score_rows,
    standardisation,
    to_views,
    train_member,
)

READINGS = {"low": 10.0, "high": 90.0}
#: Leading hexadecimal digits of a picture's sha256 by which the file remembers what it was fitted on.
FITTED_DIGITS = 10
#: A face of this fake probability contradicts a verdict of real.
FACE_ALARM = 0.9
#: Share of the pictures (in all qualities) that count as like those of the training.
_USUAL = 0.998
#: The kinds of picture that confidence is measured by, beside close-ups of faces.
_OTHER_KINDS = {"artwork": "artwork", "document": "document", "screenshot": "document"}


def cross_validate(
    data: Tokens, rows: npt.NDArray[np.int64], settings: HeadSettings, folds: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the head's out-of-fold logit of every row of the table, and the fold it was tested in.

    ``data`` are P pictures in V qualities, the table's tiers first; ``rows`` [P, T] are their rows in the table.
    """
    scores, numbers = np.zeros(rows.size), np.zeros(rows.size, np.int64)
    for number, test in enumerate(family_folds(data.families, folds)):
        train = data.take(np.setdiff1d(np.arange(len(rows)), test))
        mean, scale = standardisation(train)
        members = [train_member(train, mean, scale, seed, settings) for seed in range(settings.members)]
        for tier in range(rows.shape[1]):
            scores[rows[test, tier]] = score_rows(members, mean, scale, data.views[test, tier])
        numbers[rows[test].ravel()] = number
        print(
            f"fold {number + 1} of {folds}: head trained on {len(train.labels)} pictures", file=sys.stderr, flush=True
        )
    return scores, numbers


def keep_scores(
    cache: Path | None, name: str, compute: Callable[[], tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return out-of-fold scores and folds, from ``cache`` where they are: they take ten minutes, the fusion seconds."""
    path = None if cache is None else cache / f"scores-{name}.npz"
    if path is not None and path.exists():
        with np.load(path) as stored:
            return stored["scores"], stored["fold"]
    scores, fold = compute()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, scores=scores, fold=fold)
    return scores, fold


def head_key(path: Path) -> str:
    """Return what a head says it learnt from; "" where there is none."""
    from safetensors import safe_open

    if not path.exists():
        return ""
    with safe_open(path, "np") as file:
        return str((file.metadata() or {}).get("key", ""))


def without_head_only(
    table: Table, fold: npt.NDArray[np.int64], head_only: tuple[str, ...]
) -> tuple[Table, npt.NDArray[np.int64]]:
    """Return table and folds without the train split of sources that begin with one of ``head_only``."""
    rows = zip(table.sources, table.splits, strict=True)
    kept = [i for i, (source, split) in enumerate(rows) if not is_head_only(source, split, head_only)]
    return table.take(kept), fold[kept]


def cross_fit(table: Table, fold: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the fused logit of every row by weights fitted on the other folds."""
    logits = np.zeros(len(fold))
    for number in sorted(set(fold.tolist())):
        test = np.flatnonzero(fold == number)
        logits[test] = fit_fusion(table.take(np.flatnonzero(fold != number))).logits(table.take(test))
    return logits


def outcomes(
    fusion: Fusion, bands: dict[str, tuple[float, float]], table: Table, logits: npt.NDArray[np.float64]
) -> list[Outcome]:
    """Return how every row is judged by thresholds and bands, given its out-of-fold logit."""
    found = []
    for row, logit in enumerate(logits):
        kind = table.kinds[row]
        threshold = fusion.regime(kind).threshold
        probability = sigmoid(float(logit))
        low, high = bands[kind]
        found.append(
            Outcome(
                label=int(table.labels[row]),
                probability=probability,
                called_fake=probability >= threshold,
                sure=not low <= probability <= high,
                tier=table.tiers[row],
                source=table.sources[row],
                family=table.families[row],
                split=table.splits[row],
                generator=table.generators[row],
                kind=kind,
            )
        )
    return found


def _regime_document(regime: Regime) -> dict[str, Any]:
    terms = {name: vars(term) for name, term in regime.terms.items()}
    return {
        "bias": regime.bias,
        "forensic_cap": regime.forensic_cap,
        "threshold": regime.threshold,
        "terms": terms,
    }


def build_document(
    fusion: Fusion,
    bands: dict[str, tuple[float, float]],
    percentiles: dict[str, Percentiles],
    family: str,
    head_sha256: str,
    temperature: float,
    unusual: float,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Return the calibration document."""
    return {
        "schema": SCHEMA,
        "source": source,
        "readings": READINGS,
        "fusion": {
            "close_up_share": CLOSE_UP_SHARE,
            "suspect_logit": SUSPECT_LOGIT,
            "close_up": _regime_document(fusion.regimes[CLOSE_UP]),
            "suspect": _regime_document(fusion.regimes[SUSPECT]),
            "general": _regime_document(fusion.regimes[GENERAL]),
        },
        "doubt": {
            "bands": {kind: list(band) for kind, band in bands.items()},
            "face": FACE_ALARM,
            "unusual": unusual,
            "kinds": dict(kind_of_category()),
        },
        "clip": {"family": family, "temperature": temperature, "head_sha256": head_sha256},
        "percentiles": {
            name: {"edges": list(p.edges), "values": [[round(v, 4) for v in row] for row in p.values]}
            for name, p in percentiles.items()
        },
    }


def kind_of_category() -> dict[str, str]:
    """Return the kind of picture by image category: photograph, artwork or document."""
    return {category: _OTHER_KINDS.get(category, "photograph") for category in read_prompts().categories}


def _blank_calibration(percentiles: dict[str, Percentiles]) -> Calibration:
    """Return a calibration that weighs nothing: what terms are read with before anything is fitted."""
    regime = Regime(0.0, {}, 0.0, 0.5)
    return Calibration(
        version="",
        family="",
        percentiles=percentiles,
        low=READINGS["low"],
        high=READINGS["high"],
        close_up=regime,
        suspect=regime,
        general=regime,
        close_up_share=CLOSE_UP_SHARE,
        suspect_logit=SUSPECT_LOGIT,
        doubt=Doubt(dict.fromkeys((CLOSE_UP, SUSPECT, OTHER), (0.5, 0.5)), FACE_ALARM, float("inf")),
        kinds=kind_of_category(),
        clip_temperature=1.0,
        head=None,
        source={},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders with real/ and fake/ below")
    parser.add_argument("--labelled", type=Path, help="CSV manifest with labelled rows (source, group, split, label)")
    parser.add_argument(
        "--sources", nargs="*", default=[], help="beginnings of the sources to use of it (default: all)"
    )
    parser.add_argument("--split", nargs="*", default=[], help="splits to use (default: all)")
    parser.add_argument(
        "--head-only",
        nargs="*",
        default=[],
        metavar="SOURCE",
        help="beginnings of sources whose train split teaches the head alone: the face CNN has seen it",
    )
    parser.add_argument("--most-head-only", type=int, default=200, help="of those, drawn per source and label")
    parser.add_argument(
        "--scenes", type=int, default=0, help="so many pictures of --manifest, drawn evenly, as real ones"
    )
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], help="folders of real photographs")
    parser.add_argument("--manifest", type=Path, help="CSV manifest whose photographed categories count as photographs")
    parser.add_argument(
        "--most-photographs", type=int, default=700, help="drawn from the manifest, for percentiles only"
    )
    parser.add_argument("--repository", type=Path, default=default_repository(), help="repository to calibrate")
    parser.add_argument("--cache", type=Path, help="folder that keeps what was observed, to go on from")
    parser.add_argument("--qualities", type=int, default=1, help="degraded copies per picture beside the tiers")
    parser.add_argument("--members", type=int, default=HeadSettings.members, help="networks in the head's ensemble")
    parser.add_argument("--epochs", type=int, default=HeadSettings.epochs)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--report", type=Path, help="write the out-of-fold figures to this JSON file too")
    parser.add_argument("--seed", type=int, default=0)


def fit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit and write everything; return the out-of-fold figures."""
    labelled, photographs = collect(arguments)
    detector = InProcessDetector(arguments.repository, needs_calibration=False)
    bank: PromptBank = load_prompt_bank(arguments.repository / PROMPT_BANK)
    percentiles = photograph_percentiles(detector, photographs, arguments.cache)
    blank = _blank_calibration(percentiles)
    qualities = [*TIERS, *(f"{RANDOM}{n or ''}" for n in range(arguments.qualities))]
    tables, tokens = [], []
    fitted_on: set[str] = set()
    for quality in qualities:
        seen = observe_samples(detector, labelled, quality, arguments.cache)
        tokens.append(to_views([o.intermediates for o in seen if o.intermediates is not None]))
        if quality in TIERS:
            tables.append((seen, quality))
            fitted_on |= {o.image.sha256[:FITTED_DIGITS] for o in seen if quality == "clean"}
    views = np.stack(tokens, axis=1)
    del tokens
    count, tiers = len(labelled), [quality for _, quality in tables for _ in labelled]
    table = tabulate([o for seen, _ in tables for o in seen], labelled * len(tables), tiers, bank, blank)
    rows = np.arange(len(tables) * count).reshape(len(tables), count).T
    first = rows[:, 0]
    sources, families = (tuple(part[i] for i in first) for part in (table.sources, table.families))
    data = Tokens(views, table.labels[first], sources, families)
    settings = HeadSettings(members=arguments.members, epochs=arguments.epochs)
    key = hashlib.sha256(
        "\n".join([*qualities, str(settings), *(str(s.path) for s in labelled)]).encode() + views[:64].tobytes()
    ).hexdigest()[:16]
    scores, fold = keep_scores(
        arguments.cache,
        f"{key}-{arguments.folds}",
        lambda: cross_validate(data, rows, settings, arguments.folds),
    )
    # The prompts' embeddings were trained on the train split, so the zero-shot margin counts as absent there.
    whole, learnt = table, table.with_tokens(scores).without("clip", "train")
    table, fold = without_head_only(learnt, fold, tuple(arguments.head_only))
    logits = cross_fit(table, fold)
    fusion = choose_thresholds(fit_fusion(table), table, logits)
    bands = choose_bands(fusion, table, logits, kind_of_category().values())
    report = report_outcomes(outcomes(fusion, bands, table, logits))
    folder = (arguments.repository / CALIBRATION).parent
    # The head that is served learns from everything; one that learnt from this already is kept.
    if head_key(folder / HEAD_FILE) != key:
        mean, scale = standardisation(data)
        members = [train_member(data, mean, scale, seed, settings) for seed in range(settings.members)]
        metadata = {"pictures": str(count), "qualities": " ".join(qualities), "settings": str(settings), "key": key}
        save_head(folder / HEAD_FILE, members, mean, scale, metadata)
    served = load_token_head(folder / HEAD_FILE)
    mean, scale = served.mean, served.scale
    flat = views.reshape(-1, *views.shape[2:])
    squares = [float(np.square((row.astype(np.float32) - mean) / scale).mean()) for row in flat]
    counts = Counter(f"{s.source.split('/')[0]}/{s.label}" for s in labelled)
    manifest = read_repository_manifest(arguments.repository)
    document = build_document(
        fusion,
        bands,
        percentiles,
        str(manifest.source.get("clip_family", "")),
        hashlib.sha256((folder / HEAD_FILE).read_bytes()).hexdigest(),
        fit_temperature(whole),
        float(np.quantile(squares, _USUAL)),
        {
            "images": dict(sorted(counts.items())),
            "sources": len({s.source for s in labelled}),
            "families": len(set(whole.families)),
            "out_of_fold": report["summary"],
            "fitted_on": sorted(fitted_on),
        },
    )
    (arguments.repository / CALIBRATION).write_text(json.dumps(document, indent=1) + "\n")
    write_manifest(arguments.repository, manifest.source)
    return report


def run(arguments: argparse.Namespace) -> int:
    """Fit, write calibration and head into the repository and print out-of-fold figures; 0, or 1 with the reason."""
    from ..evaluate.figures import format_report

    try:
        report = fit(arguments)
    except (ImageError, OSError, ValueError) as error:
        print(f"veridict calibrate: {error}", file=sys.stderr)
        return 1
    if arguments.report is not None:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    print(format_report(report))
    return 0
