"""Occlusion (Zeiler & Fergus 2014): how far a network's output falls when a patch is covered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch
from captum.attr import Occlusion

from veridict.forensics.arrays import Float32Array

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from . import ExplainedModel
from .background import BACKGROUND, background
from .gradients import cancellable, to_tensor
from .results import OUTPUT_UNITS, network_result

#: Side and stride of the covering patch in pixels of the 224 x 224 view. There are 13 x 13 = 169 positions, and
#: neighbouring patches overlap by half.
PATCH, STRIDE = 32, 16
#: Positions of the first, coarse map (4 x 4). Its time tells how fine a second map may be.
COARSE = 16
#: Shares of the seconds: that a finer map may take of what remains by estimate, and that are kept back from it, since
#: other work can slow the machine down meanwhile.
_SHARE, _RESERVE = 0.7, 0.1


class _TooSlowError(Exception):
    """The finer map would not end in time."""


def explain_module(
    subject: Subject, models: Models, budget: Budget, cancellation: Cancellation, *, method: str, model: ExplainedModel
) -> Attribution:
    """Explain one output of CLIP's view; ``values`` [224, 224], positive speaks for fake.

    A pixel's value is how far the output falls when a patch is covered with :func:`background`, averaged over all
    patches that contain the pixel. A coarse map comes first. The finer one has larger patches where the budget's
    samples or seconds do not suffice for all positions, and where it does not end in time, the coarse one is the
    answer; the settings say which patch and stride were used.
    """
    started = time.perf_counter()
    pixels = to_tensor(subject.view)
    hidden = torch.from_numpy(background(subject.view))[None]
    side = pixels.shape[1]
    forward = cancellable(models.without_gradients(model), cancellation, torch.get_num_threads())
    reserve = _RESERVE * cancellation.remaining
    with torch.no_grad():
        score = float(forward(pixels))  # outside the measured time: the first pass of a process is slower
        before = cancellation.elapsed
        used = grid(side, COARSE)
        values = _occlude(forward, pixels, hidden, *used)
        each = (cancellation.elapsed - before) / COARSE
        finer = grid(side, min(budget.samples, _SHARE * cancellation.remaining / each))
        if finer != used:

            def in_time(rows: torch.Tensor) -> torch.Tensor:
                if cancellation.remaining < reserve:
                    raise _TooSlowError
                return forward(rows)

            with contextlib.suppress(_TooSlowError):
                values, used = _occlude(in_time, pixels, hidden, *finer), finer
    return network_result(
        subject,
        models,
        method=method,
        model=model,
        values=values,
        score=score,
        unit=f"{OUTPUT_UNITS[model]} per patch",
        settings={"patch": used[0], "stride": used[1], "baseline": BACKGROUND},
        quality={},
        started=started,
    )


def _occlude(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    hidden: torch.Tensor,
    patch: int,
    stride: int,
) -> Float32Array:
    """Return the map [H, W] of pixels [1, H, W, 3]; a patch covers them with ``hidden``, shaped like them."""
    found = Occlusion(forward).attribute(
        pixels,
        sliding_window_shapes=(patch, patch, 3),
        strides=(stride, stride, 3),
        baselines=hidden,
        perturbations_per_eval=torch.get_num_threads(),
    )
    # captum repeats the patch's difference in every channel; their mean is that difference
    values: Float32Array = found.mean(dim=3)[0].numpy()
    return values


def grid(side: int, positions: float) -> tuple[int, int]:
    """Return patch and stride in pixels: the finest of at most so many positions, or of :data:`COARSE` if it is less.

    ``side``: of the image in pixels.
    """
    patch, stride = PATCH, STRIDE
    while (-(-(side - patch) // stride) + 1) ** 2 > max(positions, COARSE):
        stride += 8
        patch = max(patch, stride)
    return patch, stride
