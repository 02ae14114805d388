"""Everything that is known about one image before fusion: the typed record, and its one wire form.

Preparation makes the record, the networks' scores are added to it, and fusion judges it. Between the served models it
travels as bytes (:meth:`Observation.to_bytes`); calibration keeps the same bytes on disk. A new measurement is one more
entry of ``measurements`` and changes neither.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Float32Array, FloatArray
from .contract import UNCHECKED, ImageFacts, Provenance
from .documents import from_document

#: Left, top, width and height in pixels of the upright image.
BoxTuple = tuple[int, int, int, int]
#: The tensor that holds everything but the arrays, as JSON.
_RECORD = "record"
#: Begins the names of the tensors of re-encodings: altered/NAME/PART.
_ALTERED = "altered/"


@dataclass(frozen=True)
class Measurement:
    """The raw value of one signal, or None and the reason why it does not apply."""

    value: float | None
    why_not: str = ""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the networks say of one version of an image; shapes as in :class:`Observation`."""

    embedding: Float32Array
    class_tokens: FloatArray
    face_logits: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Observation:
    """One observed image.

    ``measurements``: the forensic signals by name. ``boxes``: the faces that are judged, largest first; ``faces_found``
    counts the others as well. ``tone``: standard deviation of the luma in grey levels (0..255), 0 for a blank image.
    ``timings_ms``: milliseconds per step so far. ``provenance``: what the file says about where it comes from.
    ``pdq``: the PDQ hash (64 hexadecimal digits; "" where none was taken), of quality ``pdq_quality`` (0..100).

    The networks' scores are None or empty until :meth:`with_scores` adds them: ``embedding`` [D], CLIP's image
    embedding of unit length; ``class_tokens`` [K, W], of K blocks of CLIP's image tower; ``face_logits``, one per box,
    > 0 means fake. ``altered``: the same of re-encodings of the image, by their names in :mod:`.alterations`.
    """

    image: ImageFacts
    measurements: Mapping[str, Measurement]
    boxes: tuple[BoxTuple, ...] = ()
    faces_found: int = 0
    tone: float = 255.0
    timings_ms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    embedding: Float32Array | None = None
    class_tokens: FloatArray | None = None
    face_logits: tuple[float, ...] = ()
    provenance: Provenance = UNCHECKED
    pdq: str = ""
    pdq_quality: int = 0
    altered: Mapping[str, Scores] = dataclasses.field(default_factory=dict)

    def with_scores(
        self,
        embedding: Float32Array,
        class_tokens: FloatArray,
        face_logits: Sequence[float] | Float32Array,
        seconds: Mapping[str, float] | None = None,
    ) -> Observation:
        """Return the record with the networks' scores; ``seconds`` are further timings by step.

        Raises:
            ValueError: there is not one face logit per box.
        """
        if len(face_logits) != len(self.boxes):
            raise ValueError(f"{len(face_logits)} face logits for {len(self.boxes)} faces")
        spent = {name: round(value * 1e3, 3) for name, value in (seconds or {}).items()}
        return dataclasses.replace(
            self,
            embedding=embedding,
            class_tokens=class_tokens,
            face_logits=tuple(float(logit) for logit in face_logits),
            timings_ms={**self.timings_ms, **spent},
        )

    def alterations(self) -> dict[str, Observation]:
        """Return the record as it would be of each re-encoding: with its scores in place of the image's."""
        return {name: dataclasses.replace(self, altered={}, **vars(scores)) for name, scores in self.altered.items()}

    def to_bytes(self) -> bytes:
        """Return the wire form: safetensors with the arrays, and a tensor of JSON with everything else."""
        from safetensors.numpy import save

        document = {
            "image": vars(self.image),
            "measurements": {name: vars(m) for name, m in self.measurements.items()},
            "boxes": self.boxes,
            "faces_found": self.faces_found,
            "tone": self.tone,
            "timings_ms": dict(self.timings_ms),
            "provenance": vars(self.provenance),
            "pdq": self.pdq,
            "pdq_quality": self.pdq_quality,
        }
        tensors: dict[str, Any] = {
            _RECORD: np.frombuffer(json.dumps(document, default=vars).encode(), np.uint8),
            "face_logits": np.array(self.face_logits, np.float32),
        }
        arrays = {"embedding": self.embedding, "class_tokens": self.class_tokens}
        tensors |= {name: np.ascontiguousarray(values) for name, values in arrays.items() if values is not None}
        for name, scores in self.altered.items():
            for part, values in vars(scores).items():
                tensors[f"{_ALTERED}{name}/{part}"] = np.ascontiguousarray(values, np.float32)
        data: bytes = save(tensors)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Observation:
        """Read the wire form.

        Raises:
            ValueError: the bytes are no observation.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
            document = json.loads(tensors.pop(_RECORD).tobytes())
            logits = tuple(tensors.pop("face_logits").tolist())
            altered = _pop_altered(tensors)
            observation = cls(
                image=from_document(ImageFacts, document.pop("image")),
                measurements={n: from_document(Measurement, m) for n, m in document.pop("measurements").items()},
                boxes=tuple(_box(box) for box in document.pop("boxes")),
                # Calibrations keep observations that were made before provenance was looked at.
                provenance=from_document(Provenance, document.pop("provenance", {})),
                face_logits=logits,
                altered=altered,
                **document,
                **tensors,
            )
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not an observation: {error}") from error
        # Before the networks' scores are added there are boxes without logits.
        for found in (logits, *(scores.face_logits for scores in altered.values())):
            if observation.embedding is not None and len(found) != len(observation.boxes):
                raise ValueError(f"not an observation: {len(found)} face logits for {len(observation.boxes)} faces")
        return observation


def _pop_altered(tensors: dict[str, Any]) -> dict[str, Scores]:
    """Take the tensors of re-encodings out of ``tensors``."""
    parts: dict[str, dict[str, Any]] = {}
    for key in sorted(key for key in tensors if key.startswith(_ALTERED)):  # safetensors keeps no order
        name, _, part = key.removeprefix(_ALTERED).partition("/")
        values = tensors.pop(key)
        parts.setdefault(name, {})[part] = tuple(values.tolist()) if part == "face_logits" else values
    return {name: Scores(**found) for name, found in parts.items()}


def _box(values: Sequence[int]) -> BoxTuple:
    x, y, width, height = (int(value) for value in values)
    return x, y, width, height
