"""The gRPC transport over tritonclient: tensors in, document out, statuses to typed errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.forensics.signature import HEALTH_CHECK, IMAGE, VERDICT

from ._config import ClientConfig
from ._errors import DeadlineError, InvalidImageError, OverloadedError, ProtocolError, VeridictError, from_status
from ._types import Answer, Outcome, Request
from .addresses import Endpoint
from .connections import Connections

#: Seconds that gRPC waits for an answer after the caller's deadline, and seconds that closing waits for such answers.
#: A call is never cancelled: a cancellation that reaches the server in the middle of its ensemble crashes Triton 2.51
#: in one of fifty cases (fault 3 of docs/triton-2.51-faults.md).
_LATE, LINGER = 10.0, 2.0
#: A request that costs no inference: a detector that works refuses it at once.
HEALTH_REQUEST = Request(b"", HEALTH_CHECK, {})


def request_arguments(config: ClientConfig, request: Request, timeout: float) -> dict[str, Any]:
    """Return the keyword arguments of one ``infer`` call.

    The server refuses a request that still waits a twentieth of the time before the deadline; gRPC itself waits for
    longer than the caller, who watches the deadline and leaves a late call to end by itself.
    """
    tensor = triton.InferInput(IMAGE.name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[request.data]], dtype=np.object_))
    named = {"parameters": {"policy": request.policy}} if request.policy else {}
    return {
        **named,
        "model_name": config.model,
        "inputs": [tensor],
        "outputs": [triton.InferRequestedOutput(VERDICT.name)],
        "request_id": request.request_id,
        "client_timeout": timeout + _LATE,
        "timeout": max(1, int(timeout * 0.95e6)),
        "headers": request.headers or None,
    }


def read_answer(result: Any, request_id: str) -> Answer:
    """Return the document of a tritonclient result.

    Raises:
        ProtocolError: the output is missing.
    """
    output = result.as_numpy(VERDICT.name)
    if output is None or output.size != 1:
        raise ProtocolError(f"the answer has no single {VERDICT.name}", request_id=request_id)
    return Answer(bytes(output.ravel()[0]))


def read_outcome(result: Any, error: InferenceServerException | None, request_id: str) -> Outcome:
    """Return the answer of a call, or its typed error."""
    try:
        return read_answer(result, request_id) if error is None else to_error(error, request_id)
    except ProtocolError as unreadable:
        return unreadable


def shows_readiness(outcome: Outcome) -> bool:
    """Return whether this outcome of :data:`HEALTH_REQUEST` comes from a detector that works.

    Triton's own readiness does not say that: it stays ready when the process of a Python model died. A detector that
    is full works.
    """
    return isinstance(outcome, Answer | InvalidImageError | OverloadedError)


def no_time_left(request_id: str) -> DeadlineError:
    """Return the error of a call whose caller stops waiting."""
    return DeadlineError("no answer before the deadline", request_id=request_id)


def to_error(error: InferenceServerException, request_id: str) -> VeridictError:
    """Return the typed error of a tritonclient exception."""
    return from_status(error.status() or "", error.message() or str(error), request_id)


class TritonTransport:
    """The blocking transport to one replica; safe to use from several threads."""

    def __init__(self, config: ClientConfig, endpoint: Endpoint) -> None:
        """Open a channel; nothing is sent yet."""
        self._config = config
        self._connections = Connections[Any](
            lambda: triton.InferenceServerClient(**config.replica_arguments(endpoint)), config.connection_age
        )

    def begin(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> None:
        """Send one image; ``done`` gets the outcome when the call has ended, which may be after the deadline."""
        channel = self._connections.take()

        def ended(result: Any, error: InferenceServerException | None) -> None:
            self._connections.give_back(channel)
            done(read_outcome(result, error, request.request_id))

        try:
            channel.async_infer(callback=ended, **request_arguments(self._config, request, timeout))
        except InferenceServerException as error:
            ended(None, error)

    def ready(self, timeout: float) -> bool:
        """Return whether the detector answers, and all that it calls is ready."""
        ends = time.monotonic() + timeout
        channel = self._connections.take()
        try:
            # Triton does not know which networks a step of the ensemble calls, so ask for all models of the server.
            if not (
                channel.is_server_ready(client_timeout=timeout)
                and channel.is_model_ready(self._config.model, client_timeout=timeout)
            ):
                return False
        except (InferenceServerException, ValueError):  # ValueError: the channel was closed meanwhile
            return False
        finally:
            self._connections.give_back(channel)
        answered: SimpleQueue[Outcome] = SimpleQueue()
        left = max(0.1, ends - time.monotonic())
        self.begin(HEALTH_REQUEST, left, answered.put)  # not cancelled when late, as every call
        try:
            return shows_readiness(answered.get(timeout=left))
        except Empty:
            return False

    def close_retired(self) -> None:
        """Close replaced channels with no call in flight."""
        for channel in self._connections.retired():
            channel.close()

    def close(self) -> None:
        """Close the channels when the last calls have ended, or after two seconds."""
        for channel in self._connections.wait(LINGER):
            channel.close()
