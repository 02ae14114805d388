"""LIME (Ribeiro et al. 2016) of the served face CNN over superpixels, by the ``lime`` package."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from veridict.forensics.arrays import AnyArray, Float64Array, Int64Array, Pixels

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..served import as_pixels
from ..subject import Subject
from .results import network_result

#: Superpixels asked of SLIC (Achanta et al. 2012). A few hundred samples determine about fifty weights well.
SEGMENTS = 50
_SEED = 0


def superpixels(pixels: Pixels, segments: int = SEGMENTS) -> Int64Array:
    """Return a label per pixel [H, W], numbered from 0 without gaps."""
    from skimage.segmentation import relabel_sequential, slic

    labels = slic(pixels, n_segments=segments, compactness=10.0, sigma=1.0, start_label=1)
    return np.asarray(relabel_sequential(labels)[0] - 1, dtype=np.int64)


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the served face CNN's logit; ``values`` [224, 224]: the weight of each pixel's superpixel in logits.

    Removed superpixels take their mean colour. ``quality``: ``fidelity_r2``, the weighted R² of the linear model on the
    perturbed crops (1: it predicts the network exactly), ``local_error`` = |linear model - logit| at the crop itself,
    and ``superpixels``, their number.
    """
    from lime import lime_image

    lime_image.tqdm = functools.partial(tqdm, disable=True)  # lime has no switch for its progress bar
    started = time.perf_counter()
    score_batch = models.scorer
    crop = subject.crop
    labels = superpixels(crop)

    def score(crops: AnyArray) -> Float64Array:
        cancellation.check()
        logits = score_batch(as_pixels(np.asarray(crops))).astype(np.float64)
        return np.stack([-logits, logits], axis=1)  # lime wants a column per class and explains one

    found = lime_image.LimeImageExplainer(random_state=_SEED, feature_selection="none").explain_instance(
        crop,
        score,
        labels=(1,),
        top_labels=None,
        num_samples=budget.samples,
        batch_size=models.batch,
        segmentation_fn=lambda _: labels,
        random_seed=_SEED,
    )
    weights = np.zeros(labels.max() + 1)
    for index, weight in found.local_exp[1]:
        weights[index] = weight
    logit = float(score(crop[None])[0, 1])
    return network_result(
        subject,
        models,
        method="lime",
        model="face_cnn",
        values=weights[labels].astype(np.float32),
        score=logit,
        unit="logits per superpixel",
        settings={"segments": SEGMENTS, "samples": budget.samples, "seed": _SEED, "hidden": "mean colour"},
        quality={
            "fidelity_r2": _of_label(found.score),
            "local_error": abs(_of_label(found.local_pred) - logit),
            "superpixels": float(len(weights)),
        },
        started=started,
    )


def _of_label(value: Any) -> float:
    """Return a figure of lime's explanation: some releases keep a dictionary by label, others the plain figure."""
    return float(np.ravel(value[1] if isinstance(value, dict) else value)[0])
