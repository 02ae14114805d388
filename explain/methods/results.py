"""How a method's values become an :class:`~veridict.explain.attribution.Attribution`."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np

from veridict.forensics.arrays import AnyArray

from ..attribution import Attribution, Kind
from ..models import FORENSICS_VERSION, Models
from ..subject import Subject
from . import ExplainedModel

#: The unit of each network's explained output.
OUTPUT_UNITS: dict[ExplainedModel, str] = {"face_cnn": "logits", "clip": "logits", "token_head": "score"}
#: Longest side of a stored forensic map, in pixels. A finer map shows nothing more to the eye.
MAP_SIDE = 1024


def network_result(
    subject: Subject,
    models: Models,
    *,
    method: str,
    model: ExplainedModel,
    kind: Kind = "signed",
    values: AnyArray,
    score: float,
    unit: str,
    settings: dict[str, Any],
    quality: dict[str, float],
    started: float,
) -> Attribution:
    """Return the result of a method that explains a network; ``started`` is a ``time.perf_counter()``."""
    return Attribution(
        method=method,
        kind=kind,
        values=np.ascontiguousarray(values, dtype=np.float32),
        unit=unit,
        region=subject.face_region if model == "face_cnn" else subject.view_region,
        score=score,
        settings=settings,
        quality={name: float(value) for name, value in quality.items()},
        seconds=time.perf_counter() - started,
        model=model,
        model_version=models.versions[model],
    )


def measurement_result(
    subject: Subject, *, method: str, values: AnyArray, unit: str, settings: dict[str, Any], started: float
) -> Attribution:
    """Return the result of a method that measures the file, shrunk to :data:`MAP_SIDE` by area averaging."""
    shrink = min(1.0, MAP_SIDE / max(values.shape))
    if shrink < 1.0:
        size = (max(1, round(values.shape[1] * shrink)), max(1, round(values.shape[0] * shrink)))
        values = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return Attribution(
        method=method,
        kind="measurement",
        values=np.ascontiguousarray(values, dtype=np.float32),
        unit=unit,
        region=subject.whole_region,
        score=None,
        settings=settings,
        quality={},
        seconds=time.perf_counter() - started,
        model="forensics",
        model_version=FORENSICS_VERSION,
    )
