"""Grad-CAM (Selvaraju et al. 2017) on the face CNN's last feature maps, without its final ReLU."""

from __future__ import annotations

import time

import torch
from captum.attr import LayerGradCam

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .gradients import cancellable, to_tensor
from .results import network_result


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the face CNN's logit; ``values`` [224, 224]: the feature maps weighted by their mean gradient, enlarged.

    The published method ends with a ReLU, which would drop everything that speaks for real. Here both signs are kept;
    positive speaks for fake. ``quality``: ``cells``, the number of cells before the map is enlarged.
    """
    started = time.perf_counter()
    pixels = to_tensor(subject.crop).requires_grad_(True)
    forward = cancellable(models.face, cancellation)
    # captum reads the layer through hooks, so it may call the module through our function
    cells = LayerGradCam(forward, models.face.head).attribute(pixels, relu_attributions=False).detach()
    size = pixels.shape[1:3]
    values = torch.nn.functional.interpolate(cells, size=size, mode="bilinear", align_corners=False)[0, 0]
    with torch.no_grad():
        score = float(forward(pixels))
    return network_result(
        subject,
        models,
        method="grad_cam",
        model="face_cnn",
        values=values.numpy(),
        score=score,
        unit="gradient-weighted activation",
        settings={"layer": "head", "relu": False},
        quality={"cells": float(cells.shape[2] * cells.shape[3])},
        started=started,
    )
