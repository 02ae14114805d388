"""Stability: whether a verdict survives what platforms do to every picture that is passed on.

As the policy says, no image, those near the threshold, or every image is scored again from two re-encodings: three
quarters of the size, and JPEG at quality 60. CLIP and the face CNN see them. The forensic signals stay those of the
file, since re-encoding is what ELA and noise measure. A verdict that flips is of low confidence.

Re-encoding is a common way in which detectors of generated images fail (Cozzolino et al., "Raising the Bar of
AI-generated Image Detection with CLIP", 2024, arXiv 2312.00195).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from .alterations import ALTERATIONS
from .contract import Verdict
from .fusion import fuse
from .judgement import Judgement
from .logits import to_logit
from .observation import Observation, Scores
from .policy import NEVER, StabilityPolicy
from .preprocess import Prepared


def needs_check(verdict: Verdict, policy: StabilityPolicy) -> bool:
    """Return whether the image of a verdict without ``stability`` is to be scored again.

    ``near`` passes over answers of low confidence: a flip would tell them nothing new.
    """
    if policy.when != "near":
        return policy.when == "always"
    distance = abs(to_logit(verdict.fake_probability) - to_logit(verdict.threshold))
    return distance <= policy.margin and verdict.confidence == "high"


def check_stability(
    observations: Sequence[Observation],
    judgement: Judgement,
    find_alterations: Callable[[int], Sequence[Prepared]],
    score: Callable[[list[Prepared]], list[Observation]],
) -> list[Observation]:
    """Return scored observations, those that the policy wants checked with the scores of their re-encodings.

    ``find_alterations`` returns the re-encodings of an image by its place, none where they are not to be had; ``score``
    has the networks score images.
    """
    policy = judgement.policy.stability
    if policy.when == NEVER:
        return list(observations)
    wanted = [
        place
        for place, found in enumerate(observations)
        if policy.when == "always" or needs_check(fuse(found, judgement), policy)
    ]
    altered = {place: list(found) for place in wanted if (found := find_alterations(place))}
    scored = iter(score([image for images in altered.values() for image in images]) if altered else [])
    checked = list(observations)
    for place, images in altered.items():
        checked[place] = _add_scores(observations[place], [next(scored) for _ in images])
    return checked


def _add_scores(observation: Observation, scored: Sequence[Observation]) -> Observation:
    altered = {}
    for name, found in zip(ALTERATIONS, scored, strict=True):
        assert found.embedding is not None
        assert found.class_tokens is not None
        altered[name] = Scores(found.embedding, found.class_tokens, found.face_logits)
    return dataclasses.replace(observation, altered=altered)
