"""The registry of explanation methods.

To add a method:

1. Write its file in this folder, with ``attribute(subject, models, budget, cancellation) -> Attribution``.
2. Add its row to this file.
3. Write its test, on a model whose explanation is known in closed form.

The command, the queue, the figures and the reports read the row. A method's file is imported when the method first
runs, so that the registry itself needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..errors import ExplainError

if TYPE_CHECKING:
    from ..attribution import Attribution, Budget, Cancellation
    from ..models import Models
    from ..subject import Subject

#: What a method explains: the face CNN, CLIP's margin between two prompts, the head on CLIP's class tokens, or the
#: image file itself.
ExplainedModel = Literal["face_cnn", "clip", "token_head", "forensics"]


@dataclass(frozen=True)
class Method:
    """One registered method.

    ``module`` is relative to this package. ``title`` and ``caption`` are printed with every map. ``smoothed``: the map
    is blurred before it is drawn, because the values of single pixels are too noisy to read.
    """

    name: str
    model: ExplainedModel
    module: str
    title: str
    caption: str
    smoothed: bool = False


_ROWS = (
    Method(
        "saliency",
        "face_cnn",
        ".saliency",
        "Saliency",
        "How strongly the face CNN's answer reacts to each pixel, in either direction (gradient magnitude).",
        smoothed=True,
    ),
    Method(
        "integrated_gradients",
        "face_cnn",
        ".integrated_gradients",
        "Integrated gradients",
        "Each pixel's share of the face CNN's answer, compared with an image of the mean colour.",
        smoothed=True,
    ),
    Method(
        "shap",
        "face_cnn",
        ".shap_partition",
        "SHAP",
        "Each region's share of the face CNN's answer, found by replacing regions with blur and grain.",
    ),
    Method(
        "lime",
        "face_cnn",
        ".lime_superpixels",
        "LIME",
        "What each superpixel adds to the answer, by a linear model that imitates the face CNN.",
    ),
    Method(
        "grad_cam",
        "face_cnn",
        ".grad_cam",
        "Grad-CAM",
        "Where the face CNN's last feature maps push its answer: 14 x 14 cells.",
    ),
    Method(
        "tokens_occlusion",
        "token_head",
        ".tokens_occlusion",
        "Fine structure: occlusion",
        "How far the score for generated fine structure falls when a patch keeps only colours and grain.",
    ),
    Method(
        "tokens_integrated_gradients",
        "token_head",
        ".tokens_integrated_gradients",
        "Fine structure: integrated gradients",
        "Each pixel's share of the score for generated fine structure, compared with an image of the mean colour.",
        smoothed=True,
    ),
    Method(
        "clip_integrated_gradients",
        "clip",
        ".clip_integrated_gradients",
        "CLIP integrated gradients",
        "Each pixel's share of CLIP's real/deepfake margin, compared with an image of the mean colour.",
        smoothed=True,
    ),
    Method(
        "clip_occlusion",
        "clip",
        ".clip_occlusion",
        "CLIP occlusion",
        "How far CLIP's real/deepfake margin falls when a patch keeps only colours and grain.",
    ),
    Method(
        "ela",
        "forensics",
        ".error_level",
        "Error Level Analysis",
        "What one more JPEG compression changes. Regions with another compression history stand out.",
    ),
    Method(
        "noise",
        "forensics",
        ".noise_residual",
        "Noise residual",
        "The grain that the neighbouring pixels do not explain. Pasted or generated parts can differ.",
    ),
    Method(
        "sharpness",
        "forensics",
        ".local_sharpness",
        "Local sharpness",
        "The local standard deviation of the Laplacian. Smoothed or resized parts are dark.",
    ),
)
METHODS = {method.name: method for method in _ROWS}


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        ExplainError: ``explain.unknown_method``, with the names of all methods.
    """
    if name not in METHODS:
        raise ExplainError("explain.unknown_method", f"{name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def get_methods(names: Iterable[str]) -> list[Method]:
    """Return methods by name, each once, in the order given.

    Raises:
        ExplainError: ``explain.unknown_method``, or ``explain.bad_request`` for no name at all.
    """
    found = [get_method(name) for name in dict.fromkeys(names)]
    if not found:
        raise ExplainError("explain.bad_request", "it names no method")
    return found


def run_method(
    name: str, subject: Subject, models: Models, budget: Budget, cancellation: Cancellation | None = None
) -> Attribution:
    """Run one method on one subject.

    Raises:
        ExplainError: why there is no result; ``explain.internal`` if the method itself failed.
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
