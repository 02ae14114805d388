"""Which answers a person should look at, and in which order."""

from __future__ import annotations

from veridict.forensics.contract import Verdict

#: What an image with a face adds to the urgency: a wrong answer about a person does the most harm, so these come first.
PEOPLE = 1.0


def needs_review(verdict: Verdict) -> bool:
    """Return whether the answer asks for a person: its confidence is low."""
    return verdict.confidence == "low"


def urgency(verdict: Verdict) -> float:
    """Return 0..2: how near the probability is to its threshold (0..1), and 1 more for an image with a face.

    The nearness is 1 at the threshold, and 0 at a probability of 0 or 1.
    """
    probability, threshold = verdict.fake_probability, verdict.threshold
    room = 1.0 - threshold if probability >= threshold else threshold
    nearness = 1.0 - min(1.0, abs(probability - threshold) / room) if room > 0 else 0.0
    return nearness + (PEOPLE if verdict.faces_found or verdict.faces else 0.0)
