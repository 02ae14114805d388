"""Saliency map: the largest absolute gradient of the logit over the colour channels (Simonyan et al. 2014)."""

from __future__ import annotations

import time

import torch
from captum.attr import Saliency
from captum.metrics import sensitivity_max

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .gradients import BATCH, cancellable, infidelity, to_tensor
from .results import network_result

_RADIUS = 1.0
_PERTURBATIONS = 4


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the face CNN's logit; ``values`` [224, 224] >= 0 in logits per grey level.

    ``quality``: ``infidelity`` of the signed gradient, and ``sensitivity_max``, how far the map moves (relative to its
    norm) when every pixel changes by up to one grey level (both Yeh et al. 2019).
    """
    started = time.perf_counter()
    pixels = to_tensor(subject.crop)
    forward = cancellable(models.face, cancellation)
    method = Saliency(forward)

    def gradient(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(method.attribute(x.detach().clone().requires_grad_(True), abs=False) for x in inputs)

    (signed,) = gradient((pixels,))
    torch.manual_seed(0)  # captum draws the perturbations from the global generator
    sensitivity = sensitivity_max(
        gradient, pixels, perturb_radius=_RADIUS, n_perturb_samples=_PERTURBATIONS, max_examples_per_batch=BATCH
    )
    with torch.no_grad():
        score = float(forward(pixels))
    return network_result(
        subject,
        models,
        method="saliency",
        model="face_cnn",
        kind="strength",
        values=signed.detach().abs().amax(dim=3)[0].numpy(),
        score=score,
        unit="logits per grey level",
        settings={"sensitivity_radius": _RADIUS, "sensitivity_samples": _PERTURBATIONS},
        quality={
            "infidelity": infidelity(forward, pixels, signed.detach()),
            "sensitivity_max": float(sensitivity.item()),
        },
        started=started,
    )
