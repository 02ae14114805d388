"""Occlusion (Zeiler & Fergus 2014) of CLIP's margin between "a deepfake image" and "a real image"."""

from __future__ import annotations

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .occlusion import explain_module


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the margin; ``values`` [224, 224] in logits, positive speaks for fake."""
    return explain_module(subject, models, budget, cancellation, method="clip_occlusion", model="clip")
