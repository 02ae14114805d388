"""SHAP values (Lundberg & Lee 2017) of the served face CNN, by the ``shap`` package's partition explainer."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from ..attribution import Attribution, Budget, Cancellation, Pixels
from ..models import Models
from ..subject import Subject
from .gradients import finish

#: The removed part is replaced by its blur of this many pixels: no hard edge, which the CNN would take for a trace.
BLUR = 32


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the served face CNN's logit; ``values`` [224, 224] in logits, positive (red) pushes to fake.

    Owen values over a hierarchy of rectangles: ``samples`` bounds the perturbed crops that are scored, so a larger
    budget gives finer rectangles. ``quality``: ``additivity_error`` = |base value + sum of values - logit|, and
    ``base_value``, the logit of the wholly blurred crop.
    """
    import shap

    started = time.perf_counter()
    score_batch = models.scorer
    calls = 0

    def score(crops: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        nonlocal calls
        cancellation.check()
        calls += len(crops)
        return score_batch(as_crops(crops)).astype(np.float64)

    crop = subject.crop
    masker = shap.maskers.Image(f"blur({BLUR},{BLUR})", crop.shape)
    explainer = shap.PartitionExplainer(score, masker)
    found = explainer(crop[None], max_evals=budget.samples, batch_size=16, silent=True)
    values = np.asarray(found.values, dtype=np.float64)[0]
    base = float(np.ravel(found.base_values)[0])
    logit = float(score(crop[None])[0])
    return finish(
        subject,
        models,
        method="shap",
        model="face_cnn",
        kind="signed",
        values=values.reshape(*crop.shape[:2], -1).sum(axis=2).astype(np.float32),
        score=logit,
        unit="logits per pixel",
        settings={"explainer": "partition", "masker": f"blur({BLUR},{BLUR})", "samples": budget.samples},
        quality={
            "additivity_error": abs(base + float(values.sum()) - logit),
            "base_value": base,
            "scored": float(calls),
        },
        started=started,
    )


def as_crops(pixels: npt.NDArray[np.generic]) -> Pixels:
    """Return perturbed pixels [N, H, W, 3] as the uint8 the server takes; blending leaves fractions, rounded here."""
    return np.asarray(np.clip(np.rint(pixels.astype(np.float32)), 0, 255), dtype=np.uint8)
