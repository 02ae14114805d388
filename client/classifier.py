"""The detector in the shape of python-threatexchange's ``Classifier``.

python-threatexchange 1.2 (https://github.com/facebook/ThreatExchange, ``threatexchange.classifier``) puts detectors and
hash banks behind one interface: content in, labels out, and each label says whether it is a match. Programs written for
that interface can use :class:`VeridictClassifier` as it is. It needs nothing of python-threatexchange: the interface is
used by its methods alone, and ``content_type`` may be ``PhotoContent`` of that package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veridict.forensics.contract import Verdict

from ._sync import DetectorClient
from ._types import ImageInput
from .connection import default_url

#: The name of python-threatexchange's content type for images.
_PHOTO = "photo"


@dataclass(frozen=True)
class LabelInfo:
    """Whether a label is a match, and its ``weight``: a probability 0..1, of a bank's label 1 - distance / 256."""

    is_match: bool
    weight: float

    def weight_str(self) -> str:
        """Return the weight for people."""
        return f"{self.weight:.2f}"

    def __str__(self) -> str:
        """Return the weight for people."""
        return self.weight_str()


@dataclass(frozen=True)
class LabelResult:
    """The labels of one image; ``verdict`` is the whole answer."""

    labels: dict[str, LabelInfo]
    verdict: Verdict

    @property
    def positive_labels(self) -> dict[str, LabelInfo]:
        """Return the labels that are a match."""
        return {label: info for label, info in self.labels.items() if info.is_match}

    @property
    def has_match(self) -> bool:
        """Return whether any label is a match."""
        return bool(self.positive_labels)

    def __str__(self) -> str:
        """Return the matching labels for people."""
        return ",".join(f"{label}({info})" for label, info in self.positive_labels.items()) or "None"


class VeridictClassifier:
    """Judges images on a running detector and answers with labels.

    ``deepfake`` is a match where that is the verdict, ``needs_review`` where confidence is low. There is a label
    ``known:BANK`` for each bank of known pictures that the image matches.
    """

    def __init__(self, client: DetectorClient | None = None) -> None:
        """Take a client; without one it asks the server that ``VERIDICT_URL`` names."""
        self._client = client or DetectorClient(default_url())

    @classmethod
    def get_name(cls) -> str:
        """Return the classifier's name."""
        return "veridict"

    @classmethod
    def get_content_types(cls) -> list[type]:
        """Return python-threatexchange's content types that can be classified.

        Raises:
            ImportError: that package is not installed.
        """
        from threatexchange.content_type.photo import PhotoContent

        return [PhotoContent]

    @classmethod
    def get_with_default_settings(cls) -> VeridictClassifier:
        """Return a classifier that asks the server which ``VERIDICT_URL`` names."""
        return cls()

    def classify(self, content_type: Any, content_val: ImageInput) -> LabelResult:
        """Judge one image: a path, or any other input of :meth:`DetectorClient.detect`.

        ``content_type``: a class with ``get_name()``, such as ``PhotoContent``.

        Raises:
            ValueError: the content is of another type.
            VeridictError: the image cannot be sent, or the server gives no verdict.
        """
        if content_type.get_name() != _PHOTO:
            raise ValueError(f"unsupported content type: {content_type.get_name()}")
        return self.classify_image(content_val)

    def classify_image(self, image: ImageInput) -> LabelResult:
        """Judge one image; see :meth:`classify`."""
        verdict = self._client.detect(image)
        labels = {
            "deepfake": LabelInfo(verdict.verdict == "deepfake", verdict.fake_probability),
            "needs_review": LabelInfo(verdict.confidence == "low", float(verdict.confidence == "low")),
        }
        for match in verdict.known_content.matches if verdict.known_content else ():
            # The nearest entry of a bank comes first.
            labels.setdefault(f"known:{match.bank}", LabelInfo(True, 1.0 - match.distance / 256))
        return LabelResult(labels, verdict)
