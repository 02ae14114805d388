"""Occlusion (Zeiler & Fergus 2014) of CLIP's margin between "a deepfake image" and "a real image"."""

from __future__ import annotations

import time

import torch
from captum.attr import Occlusion

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .gradients import BATCH, cancellable, mean_baseline, to_tensor
from .results import network_result

#: Side and stride of the covering patch in pixels of the 224 x 224 view. There are 13 x 13 = 169 positions, and
#: neighbouring patches overlap by half.
PATCH, STRIDE = 32, 16


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Explain the margin; ``values`` [224, 224] in logits, positive speaks for fake.

    A pixel's value is how far the margin falls when a patch is covered with the mean colour, averaged over all patches
    that contain the pixel. If the budget has fewer samples than there are positions, stride and patch are enlarged.
    """
    started = time.perf_counter()
    pixels = to_tensor(subject.view)
    forward = cancellable(models.clip, cancellation)
    side = pixels.shape[1]
    patch, stride = PATCH, STRIDE
    while (-(-(side - patch) // stride) + 1) ** 2 > budget.samples:
        stride += 8
        patch = max(patch, stride)
    with torch.no_grad():
        found = Occlusion(forward).attribute(
            pixels,
            sliding_window_shapes=(patch, patch, 3),
            strides=(stride, stride, 3),
            baselines=mean_baseline(pixels),
            perturbations_per_eval=BATCH,
        )
        score = float(forward(pixels))
    return network_result(
        subject,
        models,
        method="clip_occlusion",
        model="clip",
        kind="signed",
        # captum repeats the patch's difference in every channel; their mean is that difference
        values=found.mean(dim=3)[0].numpy(),
        score=score,
        unit="logits per patch",
        settings={"patch": patch, "stride": stride, "baseline": "mean colour"},
        quality={},
        started=started,
    )
