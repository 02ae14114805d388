"""Requests and responses of Python-backend models: reading and writing tensors, error answers, process set-up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics.allocation import keep_freed_memory
from veridict.forensics.arrays import AnyArray
from veridict.forensics.errors import ImageError
from veridict.forensics.signature import Tensor

from .parameters import parse_number
from .server_watch import watch_server


def set_up_process(threads: int = 1) -> None:
    """Fix the OpenMP, BLAS and OpenCV thread counts of this process, keep its freed memory, and watch the server.

    Call before the libraries start their pools: a stub per model that each starts a pool per core oversubscribes the
    machine and collapses throughput.
    """
    keep_freed_memory()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import cv2

    cv2.setNumThreads(threads)
    watch_server()


def parameter(args: dict[str, str], name: str, default: str) -> str:
    """Return a string parameter of the model's configuration."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return str(parameters.get(name, {}).get("string_value", default))


def number(args: dict[str, str], name: str, default: float, lowest: float, highest: float) -> float:
    """Return a parameter of the model's configuration that is a number.

    Raises:
        ValueError: it is no number, or out of range; then the server does not start.
    """
    return parse_number(name, parameter(args, name, str(default)), lowest, highest)


def version_folder(args: dict[str, str]) -> Path:
    """Return the folder that holds this model version's files."""
    return Path(args["model_repository"]) / args["model_version"]


def read(request: Any, tensor: Tensor) -> AnyArray:
    """Return a request's input as an array with its batch dimension."""
    array: AnyArray = pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
    return array


def write(tensor: Tensor, values: Sequence[Any] | AnyArray) -> Any:
    """Return an output tensor; strings and documents become BYTES [N, 1]."""
    if tensor.dtype == "STRING":
        encoded = [v if isinstance(v, bytes) else v.encode() for v in values]
        return pb_utils.Tensor(tensor.name, np.array(encoded, dtype=np.object_).reshape(-1, 1))
    return pb_utils.Tensor(tensor.name, np.ascontiguousarray(values))


def refuse(error: ImageError) -> Any:
    """Return the INVALID_ARGUMENT answer that carries an image error's code."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))


def overloaded() -> Any:
    """Return the UNAVAILABLE answer of a full server."""
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(
            "[server.overloaded] the server has reached its limit of images in flight", pb_utils.TritonError.UNAVAILABLE
        )
    )


def stopping() -> Any:
    """Return the UNAVAILABLE answer of a server that is being stopped: the request may succeed on another one."""
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError("[server.unavailable] the server is stopping", pb_utils.TritonError.UNAVAILABLE)
    )


def deadline_exceeded() -> Any:
    """Return the UNAVAILABLE answer to a request that waited beyond its deadline."""
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(
            "[server.deadline] waited beyond the request's deadline", pb_utils.TritonError.UNAVAILABLE
        )
    )


def unknown_policy(message: str) -> Any:
    """Return the INVALID_ARGUMENT answer to a request that names a policy which is not in force."""
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(f"[server.unknown_policy] {message}", pb_utils.TritonError.INVALID_ARG)
    )


def labels_unavailable() -> Any:
    """Return the UNAVAILABLE answer to a request whose labels the text tower did not embed: it may succeed later."""
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(
            "[server.unavailable] the labels of the policy cannot be computed now", pb_utils.TritonError.UNAVAILABLE
        )
    )


def fail(what: str, error: Exception, request_id: str) -> Any:
    """Log an unexpected failure and return an INTERNAL answer that leaks nothing of it."""
    # Triton marks its own lines of a request in the same way.
    pb_utils.Logger.log_error(f"[request id: {request_id or '<id_unknown>'}] {what}: {type(error).__name__}: {error}")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"[server.internal] {what} failed"))


def answer_each(requests: Sequence[Any], what: str, answer: Callable[[Any], Any]) -> list[Any]:
    """Return ``answer(request)`` for each request; one that raises gets an error answer and the others theirs."""
    responses = []
    for request in requests:
        try:
            responses.append(answer(request))
        except ImageError as error:
            responses.append(refuse(error))
        except Exception as error:  # one bad request must not take the batch down with it
            responses.append(fail(what, error, request.request_id()))
    return responses
