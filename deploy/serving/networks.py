"""The networks, called from the first step (business logic scripting) with the images of many requests in one call.

As steps of the ensemble the networks would get each request by itself, with a message between processes and tensors of
its own for every image. Called here, a batch of prepared images costs that once, and the crops of all its faces go
together. Each network still has its own scheduler, which joins the calls of several instances of the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.arrays import Float32Array, Pixels
from veridict.forensics.observation import Observation
from veridict.forensics.preprocess import Prepared

from .responses import write

#: An image's observation, its embedding [D], its class tokens [K, W], and the logits of its faces [F].
Scored = tuple[Observation, Float32Array, Float32Array, Float32Array]


#: What Triton answers to a model's own requests from the moment on when the server is asked to stop.
_STOPPING = "server not ready"


class ServerStopping(RuntimeError):
    """A network did not answer, because the server is being stopped."""


def run_network(model: sig.Model, rows: Pixels) -> list[Float32Array]:
    """Return the rows [N, ...] of every output of a served network for input rows [N, ...], N > 0.

    Raises:
        ServerStopping: the server is being stopped.
        RuntimeError: the network did not answer for another reason.
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
            message = response.error().message()
            raise (ServerStopping if _STOPPING in message.lower() else RuntimeError)(message)
        parts.append([_array(response, name) for name in names])
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _array(response: Any, name: str) -> Float32Array:
    array: Float32Array = pb_utils.get_output_tensor_by_name(response, name).as_numpy()
    return array


def _score_faces(crops: Sequence[Pixels]) -> Float32Array:
    """Return the logits [N] of crops uint8 [224, 224, 3]; N may be 0."""
    if not crops:
        return np.zeros(0, np.float32)
    (logits,) = run_network(sig.FACE_CNN, np.stack(crops))
    return logits[:, 0]


class Networks:
    """Scores prepared images with ``clip_image`` and their faces with ``face_cnn``.

    A lone image is scored by both networks at the same time, since one network would leave cores idle. For a batch the
    networks run one after the other, since its rows fill the cores: with more threads than cores the same work takes 7%
    more CPU time, in context switches.
    """

    def __init__(self, concurrent: int) -> None:
        """Take the number of threads that may call :meth:`score` at the same time."""
        self._pool = ThreadPoolExecutor(concurrent)

    def score(self, images: Sequence[Prepared]) -> list[Scored]:
        """Return the scores of at least one image; without a face ``face_cnn`` is not called.

        Raises:
            ServerStopping: the server is being stopped.
            RuntimeError: a network did not answer for another reason.
        """
        crops = [crop for image in images for crop in image.crops]
        parallel = self._pool.submit(_score_faces, crops) if crops and len(images) == 1 else None
        embeddings, tokens = run_network(sig.CLIP_IMAGE, np.stack([image.view for image in images]))
        logits = parallel.result() if parallel else _score_faces(crops)
        faces = np.split(logits, np.cumsum([len(image.crops) for image in images])[:-1])
        return list(zip((image.observation for image in images), embeddings, tokens, faces, strict=True))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)
