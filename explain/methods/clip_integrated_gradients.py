"""Integrated gradients (Sundararajan et al. 2017) of CLIP's margin between "a deepfake image" and "a real image"."""

from __future__ import annotations

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .integrated_gradients import explain_module


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the margin; ``values`` [224, 224] in logits, positive speaks for fake; quality as for the face CNN."""
    return explain_module(subject, models, budget, cancellation, method="clip_integrated_gradients", model="clip")
