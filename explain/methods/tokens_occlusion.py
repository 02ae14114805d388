"""Occlusion (Zeiler & Fergus 2014) of the head on CLIP's class tokens."""

from __future__ import annotations

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .occlusion import explain_module


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the head's score; ``values`` [224, 224], positive speaks for fake."""
    return explain_module(subject, models, budget, cancellation, method="tokens_occlusion", model="token_head")
