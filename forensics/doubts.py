"""The table of doubts: every reason for low confidence, when it holds, and its words.

To add a rule: a row here, and, if it needs a figure, a field in :mod:`.policy`. The code of a row is part of the
answer's contract and is never renamed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .contract import Face, KnownContent
from .known_content.ruling import KnownRuling
from .observation import Observation
from .policy import Policy
from .provenance.ruling import Ruling

if TYPE_CHECKING:
    from .fusion import Values


@dataclass(frozen=True)
class Judged:
    """What a rule may look at: one judged image, and the policy.

    ``verdict`` and ``probability`` are those of the pixels, ``ruling`` what the file's provenance decides,
    ``known`` what is known of the picture, and ``known_ruling`` what that decides. ``flips``: the re-encodings whose
    verdict differs.
    """

    observation: Observation
    values: Values
    verdict: str
    probability: float
    faces: Sequence[Face]
    policy: Policy
    ruling: Ruling | None = None
    known: KnownContent | None = None
    known_ruling: KnownRuling | None = None
    flips: Sequence[str] = ()

    @property
    def known_otherwise(self) -> bool:
        """Return whether a bank knows the image as the opposite of its verdict."""
        verdict = self.known_ruling.verdict if self.known_ruling else "deepfake" if self.ruling else self.verdict
        opposite = "real" if verdict == "deepfake" else "deepfake"
        return self.known is not None and any(match.disposition == opposite for match in self.known.matches)

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
    def suspicion(self) -> float:
        """Return the highest fake probability of the faces in an image called real; -inf if there is no such face."""
        faces = self.faces if self.verdict == "real" else ()
        return max((face.fake_probability for face in faces), default=-math.inf)

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
        lambda judged: judged.suspicion >= judged.policy.face,
        "one of its faces is called fake",
    ),
    Doubt(
        "face_undecided",
        lambda judged: judged.policy.undecided_face <= judged.suspicion < judged.policy.face,
        "one of its faces is not clearly real",
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
    Doubt(
        "unstable",
        lambda judged: bool(judged.flips),
        "the verdict changes when the picture is compressed or reduced",
    ),
)
#: Doubts that do not depend on what the pixels' verdict is.
_ABOUT_PICTURE = ("little_to_see", "unusual_picture", "animation")
#: Reasons of the file itself. They are looked at also where its provenance decides.
FILE_DOUBTS = (
    Doubt(
        "declared_only",
        lambda judged: judged.ruling is not None and judged.ruling.guarantee != "trusted",
        "what a file says of itself can be written by anyone",
    ),
    Doubt(
        "declares_ai",
        lambda judged: (
            judged.ruling is None
            and judged.verdict == "real"
            and judged.observation.provenance.declares in ("ai", "ai_edited", "composite")
        ),
        "the file says that AI or synthetic parts were used",
    ),
    Doubt(
        "credentials_tampered",
        lambda judged: judged.observation.provenance.status == "tampered",
        "its content credentials do not match it",
    ),
    Doubt(
        "camera_contradicted",
        lambda judged: judged.verdict == "real" and judged.observation.provenance.camera == "contradicts",
        "its camera data belong to another picture",
    ),
)
#: Reasons of known content.
KNOWN_DOUBTS = (
    Doubt(
        "known_otherwise",
        lambda judged: judged.known_otherwise,
        "a bank of known pictures contradicts the verdict",
    ),
)
WORDS = {doubt.code: doubt.words for doubt in (*DOUBTS, *FILE_DOUBTS, *KNOWN_DOUBTS)}


def list_doubts(judged: Judged) -> tuple[str, ...]:
    """Return the codes of the doubts that hold, in the order of the tables; none means high confidence.

    Where a trusted signer decides, what the pixels show does not matter. Where a declaration decides that anyone could
    have written, confidence is high only if the pixels alone give the same verdict without a doubt. Where known content
    decides, only a face or a bank that contradicts it matters.
    """
    known = tuple(doubt.code for doubt in KNOWN_DOUBTS if doubt.holds(judged))
    if judged.known_ruling is not None:
        decided = replace(judged, verdict=judged.known_ruling.verdict)
        return tuple(d.code for d in DOUBTS if d.code == "face_against_verdict" and d.holds(decided)) + known
    pixels = tuple(doubt.code for doubt in DOUBTS if doubt.holds(judged))
    file = tuple(doubt.code for doubt in FILE_DOUBTS if doubt.holds(judged)) + known
    if judged.ruling is None:
        return pixels + file
    if judged.verdict == "deepfake" and not pixels:
        return tuple(code for code in file if code != "declared_only")
    about_picture = tuple(code for code in pixels if code in _ABOUT_PICTURE)
    return file if judged.ruling.guarantee == "trusted" else about_picture + file
