"""The table of doubts: every reason for low confidence, when it holds, and its words.

To add a rule: a row here, and, if it needs a figure, a field in :mod:`.policy`. The code of a row is part of the
answer's contract and is never renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .contract import Face
from .observation import Observation
from .policy import Policy

if TYPE_CHECKING:
    from .fusion import Values


@dataclass(frozen=True)
class Judged:
    """What a rule may look at: one judged image, and the policy."""

    observation: Observation
    values: Values
    verdict: str
    probability: float
    faces: Sequence[Face]
    policy: Policy

    @property
    def little_to_see(self) -> bool:
        """Return whether the image is too small, too narrow or too plain to be judged."""
        image, least = self.observation.image, self.policy.little_to_see
        shorter, longer = sorted((image.width, image.height))
        return shorter < least.side or longer > least.aspect * shorter or self.observation.tone < least.tone

    @property
    def unusual(self) -> bool:
        """Return whether the token head has learnt from no image like this one."""
        return self.values.unusual is not None and self.values.unusual > self.policy.unusual

    @property
    def near_threshold(self) -> bool:
        """Return whether the probability lies in the uncertain band of this kind of image."""
        low, high = self.policy.bands[self.values.kind]
        return low <= self.probability <= high


@dataclass(frozen=True)
class Doubt:
    """One reason for low confidence: its code, when it holds, and what the answer's sentence adds."""

    code: str
    holds: Callable[[Judged], bool]
    words: str


DOUBTS = (
    Doubt(
        "little_to_see",
        lambda judged: judged.little_to_see,
        "there is too little in the picture to judge it by",
    ),
    Doubt(
        "unusual_picture",
        lambda judged: judged.unusual and not judged.little_to_see,
        "it is unlike every picture the detector learnt from",
    ),
    Doubt(
        "face_against_verdict",
        lambda judged: judged.verdict == "real" and any(f.fake_probability >= judged.policy.face for f in judged.faces),
        "one of its faces is called fake",
    ),
    Doubt(
        "near_threshold",
        lambda judged: judged.near_threshold,
        "pictures like this one are often judged wrongly",
    ),
    Doubt(
        "animation",
        lambda judged: judged.observation.image.frames > 1,
        "only the first frame was looked at",
    ),
)
WORDS = {doubt.code: doubt.words for doubt in DOUBTS}


def list_doubts(judged: Judged) -> tuple[str, ...]:
    """Return the codes of the doubts that hold, in the order of the table; none means high confidence."""
    return tuple(doubt.code for doubt in DOUBTS if doubt.holds(judged))
