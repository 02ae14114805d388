"""What the gradient methods share: pixels as tensors, cancellable forward passes, quality figures, the finished result.

This file is no method; every file beside it is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..attribution import Attribution, Cancellation, Kind, Pixels, Values
from ..models import Models
from ..subject import Subject

#: Rows of one pass through a network: some 40 ms forward and back on one core, so that verdicts wait no longer for the
#: next :meth:`Cancellation.check`. More rows do not run faster there (35 ms a row at 1, 41 ms at 16).
BATCH = 1


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """Return uint8 pixels [H, W, 3] as a float batch [1, H, W, 3] in 0..255; normalisation is in the network."""
    return torch.from_numpy(pixels.copy()).to(torch.float32)[None]


def cancellable(module: Any, cancellation: Cancellation) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the module as a function float [N, H, W, 3] -> [N] that checks for a cancellation every ``BATCH`` rows."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        parts = []
        for rows in pixels.split(BATCH):
            cancellation.check()
            parts.append(module(rows)[:, 0])
        return torch.cat(parts)

    return forward


def mean_baseline(pixels: torch.Tensor) -> torch.Tensor:
    """Return a flat picture of the mean colour, shape as ``pixels`` [1, H, W, 3].

    Black would hide evidence in dark pixels, since x - x0 is zero there (Sturmfels et al., Distill 2020); the mean
    colour has neither structure nor residual, which is what the face CNN looks for.
    """
    return pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels).contiguous()


def infidelity(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    attributions: torch.Tensor,
    baseline: torch.Tensor | None = None,
    seed: int = 0,
) -> float:
    """Return the infidelity (Yeh et al. 2019) of attributions [1, H, W, 3] over 8 noises of 4 grey levels; 0 is best.

    Attributions that were multiplied by x - ``baseline`` are divided by it again, as the paper does for integrated
    gradients. Captum scales the explanation first, so what is judged is its pattern.
    """
    from captum.metrics import infidelity as captum_infidelity

    generator = torch.Generator().manual_seed(seed)

    def perturb(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(x.shape, generator=generator) * 4.0
        if baseline is None:
            return noise, x - noise
        difference = x - baseline
        return torch.where(difference.abs() > 1e-3, noise / difference, 0.0), x - noise

    with torch.no_grad():
        found = captum_infidelity(
            forward, perturb, pixels, attributions, n_perturb_samples=8, max_examples_per_batch=8, normalize=True
        )
    return float(found.item())


def finish(
    subject: Subject,
    models: Models,
    *,
    method: str,
    model: str,
    kind: Kind,
    values: Values,
    score: float,
    unit: str,
    settings: dict[str, Any],
    quality: dict[str, float],
    started: float,
) -> Attribution:
    """Return the result of a network's method; ``started`` is a ``time.perf_counter()``."""
    return Attribution(
        method=method,
        kind=kind,
        values=np.ascontiguousarray(values, dtype=np.float32),
        unit=unit,
        region=subject.face_region if model == "face_cnn" else subject.whole_region,
        score=score,
        settings=settings,
        quality={name: float(value) for name, value in quality.items()},
        seconds=time.perf_counter() - started,
        model=model,
        model_version=models.versions[model],
    )
