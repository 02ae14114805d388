"""Between probabilities and logits. Standard library only."""

from __future__ import annotations

import math


def sigmoid(logit: float) -> float:
    """Return the logistic function without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))


def to_logit(probability: float) -> float:
    """Return log(p / (1 - p)) of a probability in 0..1; infinite at 0 and 1."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1.0 - probability))
