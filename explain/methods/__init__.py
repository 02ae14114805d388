"""The methods by name; a method's file is imported when it first runs, so the registry itself needs no torch.

Every file has ``attribute(subject, models, budget, cancellation) -> Attribution``. A new method is one file, one line
here and one analytic test.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import ExplainError

if TYPE_CHECKING:
    from ..attribution import Attribution, Budget, Cancellation
    from ..models import Models
    from ..subject import Subject


@dataclass(frozen=True)
class Method:
    """One registered method: the model it explains, its module (relative to this package), title and caption."""

    name: str
    model: str
    module: str
    title: str
    caption: str


_ALL = (
    Method(
        "saliency",
        "face_cnn",
        ".saliency",
        "Saliency",
        "How strongly the face CNN's answer reacts to each pixel, in either direction (gradient magnitude).",
    ),
    Method(
        "integrated_gradients",
        "face_cnn",
        ".integrated_gradients",
        "Integrated gradients",
        "Each pixel's share of the face CNN's answer, against a picture of its mean colour.",
    ),
    Method(
        "shap",
        "face_cnn",
        ".shap_partition",
        "SHAP",
        "Each region's fair share of the face CNN's answer, found by replacing regions with blur and grain.",
    ),
    Method(
        "lime",
        "face_cnn",
        ".lime_superpixels",
        "LIME",
        "A linear model of the face CNN over superpixels: what each one adds to the answer.",
    ),
    Method(
        "grad_cam",
        "face_cnn",
        ".grad_cam",
        "Grad-CAM",
        "Where the face CNN's last feature maps push its answer; coarse, 14 x 14 cells.",
    ),
    Method(
        "clip_integrated_gradients",
        "clip",
        ".clip_integrated_gradients",
        "CLIP integrated gradients",
        "Each pixel's share of CLIP's real/deepfake margin, against a picture of its mean colour.",
    ),
    Method(
        "clip_occlusion",
        "clip",
        ".clip_occlusion",
        "CLIP occlusion",
        "How far CLIP's real/deepfake margin falls when a patch is covered.",
    ),
    Method(
        "ela",
        "forensics",
        ".error_level",
        "Error Level Analysis",
        "What one more JPEG compression changes; regions with another compression history stand out.",
    ),
    Method(
        "noise",
        "forensics",
        ".noise_residual",
        "Noise residual",
        "The grain that the neighbourhood does not explain; pasted or generated parts can differ.",
    ),
    Method(
        "sharpness",
        "forensics",
        ".local_sharpness",
        "Local sharpness",
        "The local variance of the Laplacian; smoothed or resized parts are dark.",
    ),
)
METHODS = {method.name: method for method in _ALL}
FACE_METHODS = tuple(m.name for m in _ALL if m.model == "face_cnn")


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        ExplainError: ``explain.unknown_method``, naming those there are.
    """
    if name not in METHODS:
        raise ExplainError("explain.unknown_method", f"{name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def get_methods(names: Iterable[str]) -> list[Method]:
    """Return methods by name, each once, in the order given; none at all is refused."""
    found = [get_method(name) for name in dict.fromkeys(names)]
    if not found:
        raise ExplainError("explain.bad_request", "no method named")
    return found


def run_method(
    name: str, subject: Subject, models: Models, budget: Budget, cancellation: Cancellation | None = None
) -> Attribution:
    """Run one method on one subject.

    Raises:
        ExplainError: what kept the method from its result; ``explain.internal`` for a failure of the method itself.
    """
    from ..attribution import Attribution, Cancellation

    method = get_method(name)
    module = importlib.import_module(method.module, __name__)
    token = cancellation or Cancellation(budget.seconds)
    token.check()
    before = token.waited
    try:
        result = module.attribute(subject, models, budget, token)
    except (ExplainError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ExplainError("explain.internal", f"{name}: {type(error).__name__}") from error
    assert isinstance(result, Attribution)
    waited = token.waited - before
    return replace(result, seconds=max(0.0, result.seconds - waited)) if waited else result
