"""The answer: one frozen :class:`Verdict` per image, its JSON document (schema ``veridict/1``) and its six-line text.

Standard library only, so the client can parse answers without any image package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from .documents import from_document
from .policy_answers import LabelScore, Shadow

SCHEMA = "veridict/1"
Reading = Literal["low", "normal", "high", ""]
#: What is known of a file's content credentials (C2PA). ``unchecked``: nobody looked. ``remote``: they are said to lie
#: on another server, which is not asked. ``trusted``, ``untrusted``: valid, and the signer is or is not on the trust
#: list. ``nonconforming``: signature and hashes match, but a rule of the standard is broken, such as an expired
#: certificate. ``tampered``: they do not match the file. ``unreadable``: they are damaged or too large.
CredentialStatus = Literal[
    "unchecked", "none", "remote", "trusted", "untrusted", "nonconforming", "tampered", "unreadable"
]
#: How a file says that it was made: by AI, edited with AI, from synthetic parts, recorded by a camera; "" = not at all.
Declared = Literal["", "ai", "ai_edited", "composite", "capture"]
#: Who stands behind the declaration: nobody, whoever wrote the metadata, an unknown signer, a signer on the trust list.
Guarantee = Literal["", "metadata", "signed", "trusted"]
#: Whether the camera data fit the file; "" = there are none. ``bare``: there is nothing to check them by. ``resaved``:
#: software wrote the file after the camera did. ``contradicts``: they belong to another picture.
CameraData = Literal["", "bare", "agrees", "resaved", "contradicts"]


@dataclass(frozen=True)
class ImageFacts:
    """The judged file: sha256 of its bytes, JPEG/PNG/WEBP, upright size in pixels, size in bytes, frames it holds.

    Of several ``frames`` the first is judged.
    """

    sha256: str
    format: str
    width: int
    height: int
    bytes: int
    frames: int = 1


@dataclass(frozen=True)
class Category:
    """What kind of image it is: the best label, and a probability per label (they sum to 1)."""

    label: str
    scores: dict[str, float]


@dataclass(frozen=True)
class ClipPrediction:
    """The zero-shot softmax over "a real image" and "a deepfake image"; sums to 1."""

    real: float
    deepfake: float


@dataclass(frozen=True)
class Face:
    """One face: box [x, y, width, height] in pixels of the upright image, and the face CNN's fake probability."""

    box: tuple[int, int, int, int]
    fake_probability: float


@dataclass(frozen=True)
class Signal:
    """One forensic signal; ``percentile`` (0..100) is among real photographs of like size."""

    value: float | None
    percentile: float | None
    reading: Reading
    applicable: bool
    why_not: str = ""


@dataclass(frozen=True)
class Evidence:
    """One term of the answer's logit: ``contribution`` > 0 speaks for deepfake; the terms sum to the logit."""

    signal: str
    value: float | None
    percentile: float | None
    weight: float
    contribution: float
    text: str


@dataclass(frozen=True)
class KnownMatch:
    """An entry of a bank of known pictures that is like the image.

    ``disposition`` is what the bank's pictures are known to be ("deepfake", "real" or a word of the operator's).
    ``label`` and ``id`` are the entry's, "" without one. ``distance``: how many of the hash's 256 bits differ (0..31).
    """

    bank: str
    disposition: str
    label: str
    id: str
    distance: int


@dataclass(frozen=True)
class KnownContent:
    """The image's PDQ hash (64 hexadecimal digits), and what banks of known hashes say about it.

    ``quality`` (0..100): a hash below 50 is not searched. ``matches``: of each bank the nearest entries, nearest first.
    ``banks``: the version of the banks that were searched, "" where none was. ``decides``: the verdict follows from a
    match.
    """

    pdq: str
    quality: int
    matches: tuple[KnownMatch, ...] = ()
    banks: str = ""
    decides: bool = False


@dataclass(frozen=True)
class ModelVersions:
    """Which models judged: the first 12 digits of the sha256 of each.

    ``clip``, ``face_cnn`` and ``face_finder`` are the graphs or engines that were served; ``calibration`` stands for
    the calibration file and its token head, ``policy`` for the policy file. "" in answers of servers that did not say.
    """

    clip: str
    face_cnn: str
    calibration: str
    face_finder: str = ""
    policy: str = ""


@dataclass(frozen=True)
class ProvenanceTrace:
    """One entry of the metadata that says where a file comes from; ``value`` has at most 200 characters.

    ``kind``: ``generator``, ``editor``, ``source_type``, ``reference`` (to remote credentials) or ``camera``.
    """

    kind: str
    field: str
    value: str


@dataclass(frozen=True)
class Provenance:
    """What a file says about where it comes from.

    ``declares`` is what intact credentials or the metadata say, ``guarantee`` who stands behind it, and ``decides``
    whether the verdict follows from it. ``generator``, ``source_type`` (the last part of the IPTC digital source type)
    and ``signer`` are the file's own words. ``codes``: the failed checks of the credentials, by C2PA's names.
    ``text``: all of it as one sentence.
    """

    status: CredentialStatus = "unchecked"
    declares: Declared = ""
    guarantee: Guarantee = ""
    generator: str = ""
    source_type: str = ""
    signer: str = ""
    codes: tuple[str, ...] = ()
    traces: tuple[ProvenanceTrace, ...] = ()
    camera: CameraData = ""
    decides: bool = False
    text: str = ""


@dataclass(frozen=True)
class Stability:
    """The image scored again from re-encodings: by their names (see :mod:`.alterations`) the fake probabilities.

    ``flips``: the re-encodings whose verdict differs from that of the image's own pixels.
    """

    probabilities: dict[str, float]
    flips: tuple[str, ...] = ()


#: The provenance of a file that nobody looked at.
UNCHECKED = Provenance()


@dataclass(frozen=True)
class Verdict:
    """The whole answer about one image: ``deepfake`` where ``fake_probability`` reaches ``threshold``.

    ``confidence`` is low where ``doubts`` names a reason (see :data:`veridict.forensics.doubts.DOUBTS`). Of
    ``faces_found`` faces those in ``faces`` were looked at. ``provenance`` and ``known_content`` are None in
    answers of servers that did not look. ``policy``: the name of the policy that judged, "" for the repository's;
    ``labels`` and ``shadow`` are what it asks for. ``stability`` is None where re-encodings were not scored.
    """

    request_id: str
    image: ImageFacts
    verdict: Literal["real", "deepfake"]
    fake_probability: float
    confidence: Literal["high", "low"]
    category: Category
    clip: ClipPrediction
    faces: tuple[Face, ...]
    forensics: dict[str, Signal]
    explanation: str
    evidence: tuple[Evidence, ...]
    models: ModelVersions
    timings_ms: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.5
    doubts: tuple[str, ...] = ()
    faces_found: int = 0
    provenance: Provenance | None = None
    known_content: KnownContent | None = None
    policy: str = ""
    labels: dict[str, LabelScore] = field(default_factory=dict)
    shadow: tuple[Shadow, ...] = ()
    stability: Stability | None = None
    schema: str = SCHEMA

    def to_json(self) -> str:
        """Return the document as one line of JSON."""
        # vars() of each part where it is met: asdict() copies every leaf first and takes twice as long.
        return json.dumps({"schema": self.schema, **vars(self)}, default=vars, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """Parse a document; fields this version does not know are ignored.

        Raises:
            ValueError: the text is no ``veridict/1`` document.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} document")
        try:
            return from_document(cls, document)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"malformed {SCHEMA} document: {error}") from error

    def to_text(self) -> str:
        """Return the six lines people read."""
        lead = "Deepfake" if self.clip.deepfake >= self.clip.real else "Real"
        doubt = "" if self.confidence == "high" else ", low confidence: needs a human"
        lines = (
            ("Image Category", self.category.label.capitalize()),
            ("CLIP Prediction", f"{lead} (Real={self.clip.real:.2f}, Deepfake={self.clip.deepfake:.2f})"),
            ("Blur Score", _signal_text(self.forensics["blur"], _BLUR_READINGS)),
            ("Noise Residual Mean", _signal_text(self.forensics["noise"], _NOISE_READINGS)),
            ("Final Verdict", f"{self.verdict.capitalize()} ({self._probability()}{doubt})"),
            ("Explanation", self.explanation),
        )
        return "\n".join(f"{name:<20}: {value}" for name, value in lines)

    def _probability(self) -> str:
        side = "below" if self.verdict == "real" else "reaches"
        return f"fake probability {self.fake_probability:.2f} {side} {self.threshold:.2f}"


_BLUR_READINGS = {"low": "Low -> less sharp than most photographs", "high": "High -> sharper than most photographs"}
_NOISE_READINGS = {"low": "Low -> smoother than most photographs", "high": "High -> noisier than most photographs"}


def _signal_text(signal: Signal, readings: dict[str, str]) -> str:
    if signal.value is None:
        return f"n/a ({signal.why_not})"
    return f"{signal.value:.2f} ({readings.get(signal.reading, 'Normal')})"
