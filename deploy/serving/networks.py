"""The networks, called from the first step (business logic scripting): the rows of many requests in one call.

As steps of the ensemble the networks got each request by itself: a message to their process and back, and tensors of
their own, for every image. Called here, a group of finished images costs that once, and the crops of all its faces go
together. Each network still has its own scheduler, which joins the calls of several first steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.preprocess import Prepared

from .responses import write

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """What the networks say of N images: embeddings [N, D], intermediates [N, I] and, per image, its faces' logits."""

    embeddings: Floats
    intermediates: Floats
    face_logits: Sequence[Floats]


def run_network(model: sig.Model, rows: npt.NDArray[np.uint8]) -> list[Floats]:
    """Return the rows [N, ...] of every output of a served network for input rows [N, ...], N > 0.

    Raises:
        RuntimeError: the network did not answer.
    """
    (wanted,) = model.inputs
    names = [tensor.name for tensor in model.outputs]
    parts = []
    for start in range(0, len(rows), model.max_batch_size):
        response = pb_utils.InferenceRequest(
            model_name=model.name,
            requested_output_names=names,
            inputs=[write(wanted, rows[start : start + model.max_batch_size])],
            # Without this a GPU engine's output may stay in device memory, which as_numpy cannot read.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        parts.append([_array(response, name) for name in names])
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _array(response: Any, name: str) -> Floats:
    array: Floats = pb_utils.get_output_tensor_by_name(response, name).as_numpy()
    return array


def _score_faces(crops: Sequence[npt.NDArray[np.uint8]]) -> Floats:
    """Return the logits [N] of crops uint8 [224, 224, 3]; N may be 0."""
    if not crops:
        return np.zeros(0, np.float32)
    (logits,) = run_network(sig.FACE_CNN, np.stack(crops))
    return logits[:, 0]


class Networks:
    """Scores prepared images with ``clip_image`` and their faces with ``face_cnn``.

    Both at the same time for a lone image, which would leave cores idle; one after the other for a group, whose rows
    fill the cores by themselves: with more threads than cores the same work takes 7% more CPU time, in switches.
    """

    def __init__(self, calls: int) -> None:
        """Say how many threads may call :meth:`score` at once."""
        self._pool = ThreadPoolExecutor(calls)

    def score(self, images: Sequence[Prepared]) -> Scores:
        """Return the scores of at least one image; without a face ``face_cnn`` is not called.

        Raises:
            RuntimeError: a network did not answer.
        """
        crops = [crop for image in images for crop in image.crops]
        beside = self._pool.submit(_score_faces, crops) if crops and len(images) == 1 else None
        embeddings, intermediates = run_network(sig.CLIP_IMAGE, np.stack([image.view for image in images]))
        logits = beside.result() if beside else _score_faces(crops)
        bounds = np.cumsum([len(image.crops) for image in images])[:-1]
        return Scores(embeddings, intermediates, np.split(logits, bounds))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)
