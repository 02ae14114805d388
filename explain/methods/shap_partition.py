"""SHAP values (Lundberg & Lee 2017) of the served face CNN, by the ``shap`` package's partition explainer."""

from __future__ import annotations

import time

import numpy as np

from veridict.forensics.arrays import AnyArray, Float64Array

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..served import as_pixels
from ..subject import Subject
from .background import BACKGROUND, background
from .results import network_result


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the served face CNN's logit; ``values`` [224, 224] in logits, positive (red) pushes to fake.

    The values are Owen values over a hierarchy of rectangles. ``samples`` bounds the perturbed crops that are scored:
    a larger budget gives finer rectangles. ``quality``: ``additivity_error`` = |base value + sum of values - logit|,
    ``base_value``, the logit of :func:`background`, and ``scored``, the number of crops scored.
    """
    import shap

    started = time.perf_counter()
    score_batch = models.scorer
    calls = 0

    def score(crops: AnyArray) -> Float64Array:
        nonlocal calls
        cancellation.check()
        calls += len(crops)
        return score_batch(as_pixels(crops)).astype(np.float64)

    crop = subject.crop
    masker = shap.maskers.Image(background(crop), crop.shape)
    explainer = shap.PartitionExplainer(score, masker)
    found = explainer(crop[None], max_evals=budget.samples, batch_size=models.batch, silent=True)
    values = np.asarray(found.values, dtype=np.float64)[0]
    base = float(np.ravel(found.base_values)[0])
    logit = float(score(crop[None])[0])
    return network_result(
        subject,
        models,
        method="shap",
        model="face_cnn",
        values=values.reshape(*crop.shape[:2], -1).sum(axis=2).astype(np.float32),
        score=logit,
        unit="logits per pixel",
        settings={
            "explainer": "partition",
            "masker": BACKGROUND,
            "samples": budget.samples,
        },
        quality={
            "additivity_error": abs(base + float(values.sum()) - logit),
            "base_value": base,
            "scored": float(calls),
        },
        started=started,
    )
