"""Fits head, fusion, thresholds and confidence on the served networks' outputs for labelled images and photographs.

The head on CLIP's class tokens is fitted once; its scores without each family of sources follow from the same linear
system. Fusion weights, thresholds and uncertain bands are fitted on these out-of-fold scores (see :mod:`.fitting`), on
every labelled image in each quality tier. Percentiles come from real photographs, each also shrunk so that every size
class is filled. Files are prepared as they are when served.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.manifest import read_manifest, update_manifest
from veridict.deploy.repository import CALIBRATION, POLICY, PROMPT_BANK, load_prompt_bank
from veridict.forensics.arrays import Int64Array
from veridict.forensics.calibration import HEAD_FILE, Calibration
from veridict.forensics.judgement import PromptBank
from veridict.forensics.token_head import load_token_head, standardise, unusualness

from ..datasets import Sample
from ..evaluate.figures import report_outcomes
from ..pipeline import InProcessDetector
from ..tiers import TIERS
from .confidence import choose_bands, choose_undecided_face
from .data import collect_images
from .document import FITTED_DIGITS, blank_calibration, build_calibration, build_policy, kind_of_category
from .fitting import Table, choose_thresholds, fit_fusion, fit_temperature, tabulate
from .left_out import score_left_out
from .observations import RANDOM, observe_samples
from .out_of_fold import cross_fit, family_folds, head_key, keep_scores, outcomes, without_head_only
from .percentiles import photograph_percentiles
from .settings import CalibrateSettings
from .token_head import HeadSettings, Tokens, fit_head, in_parts, save_head, to_views

#: Share of the images (in all qualities) that count as like those of the training.
_USUAL = 0.998


@dataclass(frozen=True)
class Observed:
    """Every labelled image in every quality, as the networks see it.

    ``table`` has one row per image and tier; ``rows`` [P, T] are the rows of each image in it. ``tokens`` holds the P
    images in all V ``qualities``, the tiers first. ``fitted_on`` are the leading digits of the files' sha256.
    """

    table: Table
    rows: Int64Array
    tokens: Tokens
    qualities: tuple[str, ...]
    fitted_on: frozenset[str]


def calibrate(settings: CalibrateSettings) -> dict[str, Any]:
    """Fit everything, write calibration, policy, head and manifest into the repository; return the out-of-fold figures.

    Raises:
        FileNotFoundError: a folder has no fitting image, or nothing labelled was named.
        ImageError: an image is refused; the message names the file.
        ValueError: a manifest has no fitting row, or there are too few photographs or families of sources.
    """
    labelled, photographs = collect_images(settings)
    detector = InProcessDetector(settings.repository, needs_calibration=False)
    bank = load_prompt_bank(settings.repository / PROMPT_BANK)
    percentiles = photograph_percentiles(detector, photographs, settings.cache)
    seen = observe_labelled(settings, detector, labelled, bank, blank_calibration(percentiles))
    key = _fitted_key(seen, settings.head, labelled)
    fitted = cache(lambda: fit_head(seen.tokens, settings.head))
    scores = keep_scores(settings.cache, key, lambda: score_left_out(fitted(), seen.tokens.families))
    fold = family_folds(seen.table.families, settings.folds)
    # The prompts' embeddings were trained on the train split, so the zero-shot margin counts as absent there.
    learnt = seen.table.with_tokens(scores[:, : seen.rows.shape[1]].T.ravel()).without("clip", "train")
    table, fold = without_head_only(learnt, fold, tuple(settings.head_only))
    logits = cross_fit(table, fold)
    fusion = choose_thresholds(fit_fusion(table), table, logits)
    bands = choose_bands(fusion, table, logits, kind_of_category().values())
    undecided = choose_undecided_face(bands, table, logits)
    report = report_outcomes(outcomes(fusion, bands, undecided, table, logits))
    head = (settings.repository / CALIBRATION).with_name(HEAD_FILE)
    if head_key(head) != key:  # else the file has learnt from the same data
        metadata = {
            "images": str(len(seen.rows)),
            "qualities": " ".join(seen.qualities),
            "settings": str(settings.head),
            "key": key,
        }
        save_head(head, fitted().head, metadata)
    manifest = read_manifest(settings.repository)
    counts = Counter(f"{s.source.split('/')[0]}/{s.label}" for s in labelled)
    calibration = build_calibration(
        fusion,
        percentiles,
        str(manifest.source.get("clip_family", "")),
        hashlib.sha256(head.read_bytes()).hexdigest(),
        fit_temperature(seen.table),
        {
            "images": dict(sorted(counts.items())),
            "sources": len({s.source for s in labelled}),
            "families": len(set(seen.table.families)),
            "out_of_fold": report["summary"],
            "fitted_on": sorted(seen.fitted_on),
        },
    )
    policy = build_policy(fusion, bands, unusual_from(head, seen.tokens), undecided)
    for path, document in ((CALIBRATION, calibration), (POLICY, policy)):
        (settings.repository / path).write_text(json.dumps(document, indent=1) + "\n")
    update_manifest(settings.repository)
    return report


def observe_labelled(
    settings: CalibrateSettings,
    detector: InProcessDetector,
    labelled: Sequence[Sample],
    bank: PromptBank,
    calibration: Calibration,
) -> Observed:
    """Observe the labelled images in every tier and in ``settings.qualities`` random degradations."""
    qualities = (*TIERS, *(f"{RANDOM}{n or ''}" for n in range(settings.qualities)))
    observations, tiers, tokens = [], [], []
    fitted_on: frozenset[str] = frozenset()
    for quality in qualities:
        seen = observe_samples(detector, labelled, quality, settings.cache)
        tokens.append(to_views([o.class_tokens for o in seen if o.class_tokens is not None]))
        if quality in TIERS:
            observations += seen
            tiers += [quality] * len(labelled)
        if quality == "clean":
            fitted_on = frozenset(o.image.sha256[:FITTED_DIGITS] for o in seen)
    views = np.stack(tokens, axis=1)
    table = tabulate(observations, list(labelled) * len(TIERS), tiers, bank, calibration)
    rows = np.arange(len(tiers)).reshape(len(TIERS), len(labelled)).T
    first = rows[:, 0]
    sources, families = (tuple(part[i] for i in first) for part in (table.sources, table.families))
    return Observed(table, rows, Tokens(views, table.labels[first], sources, families), qualities, fitted_on)


def unusual_from(head: Path, tokens: Tokens) -> float:
    """Return the unusualness that nearly all images, in all qualities, stay below."""
    served = load_token_head(head)
    flat = tokens.views.reshape(-1, *tokens.views.shape[2:])
    found = in_parts(flat, lambda part: unusualness(standardise(part, served.mean, served.scale)))
    return float(np.quantile(found, _USUAL))


def _fitted_key(seen: Observed, settings: HeadSettings, labelled: Sequence[Sample]) -> str:
    """Return what names the data and the settings that a head is trained with."""
    text = "\n".join([*seen.qualities, str(settings), *(str(s.path) for s in labelled)])
    return hashlib.sha256(text.encode() + seen.tokens.views[:64].tobytes()).hexdigest()[:16]
