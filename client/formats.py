"""Answers in the shapes of other detection services, for platforms that migrate without a change to their parsers.

The shapes follow the public references of the two services: docs.thehive.ai/reference/ai-generated-image-and-video-
detection-1 (version 2, synchronous) and sightengine.com/docs/ai-generated-image-detection. They hold less than a
:class:`Verdict`: no reasons, no doubts, no threshold.

Callers of those services compare a score with a fixed figure, mostly 0.5. A Veridict threshold depends on the kind of
image. So the score is the fake probability moved in logits such that exactly the images called deepfake reach 0.5.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from veridict.forensics.contract import Verdict
from veridict.forensics.logits import to_logit

from ._errors import InvalidImageError, VeridictError
from ._types import Result

#: Probabilities closer than this to 0 or 1 have no finite logit.
_EDGE = 1e-12


def operating_score(verdict: Verdict) -> float:
    """Return a score in 0..1 that reaches 0.5 exactly where the verdict is deepfake."""
    if verdict.fake_probability == verdict.threshold:
        return 0.5
    score = 1.0 / (1.0 + math.exp(_logit(verdict.threshold) - _logit(verdict.fake_probability)))
    # Rounding must not move a probability next to the threshold to the other side.
    return max(score, 0.5) if verdict.verdict == "deepfake" else min(score, math.nextafter(0.5, 0.0))


def _logit(probability: float) -> float:
    return to_logit(min(max(probability, _EDGE), 1.0 - _EDGE))


def face_score(verdict: Verdict) -> float:
    """Return the fake probability of the most suspicious face; 0 without a face."""
    return max((face.fake_probability for face in verdict.faces), default=0.0)


def to_native(name: str, result: Result) -> dict[str, Any]:
    """Return the document of ``veridict/1`` with the image's ``path``, or its error."""
    if result.verdict is not None:
        return {"path": name, **json.loads(result.verdict.to_json())}
    error = _error(result)
    return {"path": name, "error": {"code": error.code, "message": error.message}}


def to_hive(name: str, result: Result) -> dict[str, Any]:
    """Return the shape of Hive's "AI-generated image and deepfake" endpoint.

    No source is ever named: what is called AI-generated has the source ``inconclusive``, the rest ``none``.
    """
    verdict = result.verdict
    if verdict is None:
        error = _error(result)
        code = 400 if isinstance(error, InvalidImageError) else 500
        status = {"code": str(code), "message": f"[{error.code}] {error.message}"}
        return {"id": error.request_id, "code": code, "status": [{"status": status, "response": None}]}
    score = operating_score(verdict)
    classes = {
        "ai_generated": score,
        "not_ai_generated": 1.0 - score,
        "inconclusive": score,
        "none": 1.0 - score,
        "deepfake": face_score(verdict),
    }
    image = verdict.image
    media = {
        "url": None,
        "filename": name,
        "type": "PHOTO",
        "mime_type": image.format.lower(),
        "mimetype": f"image/{image.format.lower()}",
        "width": image.width,
        "height": image.height,
        "num_frames": image.frames,
        "duration": 0,
    }
    response = {
        "input": {"id": verdict.request_id, "model": "veridict", "model_type": "CATEGORIZATION", "media": media},
        "output": [{"time": 0, "classes": [{"class": key, "score": value} for key, value in classes.items()]}],
    }
    status = {"code": "0", "message": "SUCCESS"}
    return {"id": verdict.request_id, "code": 200, "status": [{"status": status, "response": response}]}


def to_sightengine(name: str, result: Result) -> dict[str, Any]:
    """Return the shape of Sightengine's ``check.json`` with the models ``genai`` and ``deepfake``."""
    verdict = result.verdict
    if verdict is None:
        error = _error(result)
        kind = "media_error" if isinstance(error, InvalidImageError) else "internal_error"
        return {
            "status": "failure",
            "request": _request(error.request_id, 0),
            "error": {"type": kind, "code": error.code, "message": error.message},
        }
    return {
        "status": "success",
        "request": _request(verdict.request_id, 1),
        "type": {"ai_generated": operating_score(verdict), "deepfake": face_score(verdict)},
        "media": {"id": verdict.image.sha256, "uri": name},
    }


def _request(request_id: str, operations: int) -> dict[str, Any]:
    return {"id": request_id, "timestamp": time.time(), "operations": operations}


def _error(result: Result) -> VeridictError:
    """Return the error of a result without a verdict."""
    return result.error or VeridictError("there is neither a verdict nor an error")


#: Format -> the JSON document of one result; the first argument is the file's name as the caller knows it.
FORMATS: Mapping[str, Callable[[str, Result], dict[str, Any]]] = {
    "json": to_native,
    "hive": to_hive,
    "sightengine": to_sightengine,
}
