"""Helpers for ``model.py`` files: one error answer per request, strings, batches and thread counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from veridict.forensics.errors import ImageError
from veridict.forensics.signature import Tensor


def limit_threads(count: int = 1) -> None:
    """Fix the OpenMP, BLAS and OpenCV thread counts of this process; call before the libraries start their pools.

    A stub per model that each starts a pool per core oversubscribes the machine and collapses throughput.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    import cv2

    cv2.setNumThreads(count)


def parameter(args: dict[str, str], name: str, default: str) -> str:
    """Return a string parameter of the model's configuration."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return str(parameters.get(name, {}).get("string_value", default))


def version_folder(args: dict[str, str]) -> Path:
    """Return the folder that holds this model version's files."""
    return Path(args["model_repository"]) / args["model_version"]


def read(request: Any, tensor: Tensor) -> npt.NDArray[Any]:
    """Return a request's input as an array with its batch dimension."""
    array: npt.NDArray[Any] = pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
    return array


def write(tensor: Tensor, values: Sequence[Any] | npt.NDArray[Any]) -> Any:
    """Return an output tensor; strings and documents become BYTES [N, 1]."""
    if tensor.dtype == "STRING":
        encoded = [v if isinstance(v, bytes) else v.encode() for v in values]
        return pb_utils.Tensor(tensor.name, np.array(encoded, dtype=np.object_).reshape(-1, 1))
    return pb_utils.Tensor(tensor.name, np.ascontiguousarray(values))


def refuse(error: ImageError) -> Any:
    """Return the INVALID_ARGUMENT answer that carries an image error's code."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))


def fail(what: str, error: Exception) -> Any:
    """Log an unexpected failure and return an INTERNAL answer that leaks nothing of it."""
    pb_utils.Logger.log_error(f"{what}: {type(error).__name__}: {error}")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"[server.internal] {what} failed"))


def answer_each(requests: Sequence[Any], what: str, answer: Callable[[Any], Any]) -> list[Any]:
    """Return ``answer(request)`` for each request; one that raises gets an error answer and the others theirs."""
    return [_answer_one(what, answer, request) for request in requests]


def answer_as_completed(
    requests: Sequence[Any], jobs: Sequence[Sequence[Future[Any]]], what: str, answer: Callable[[Sequence[Any]], Any]
) -> list[None]:
    """Send ``answer(futures)`` of each request as soon as its futures are done; return what ``execute`` then returns.

    The next step of the ensemble starts on the first pictures of a batch while the last are still worked on.
    """
    waiting = {future: number for number, futures in enumerate(jobs) for future in futures}
    left = [len(futures) for futures in jobs]
    for future in as_completed(waiting):
        number = waiting[future]
        left[number] -= 1
        if not left[number]:
            response = _answer_one(what, answer, jobs[number])
            requests[number].get_response_sender().send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    return [None] * len(requests)


def _answer_one(what: str, answer: Callable[[Any], Any], given: Any) -> Any:
    """Return ``answer(given)``, or the error answer when it raises."""
    try:
        return answer(given)
    except ImageError as error:
        return refuse(error)
    except Exception as error:  # one bad request must not take the batch down with it
        return fail(what, error)
