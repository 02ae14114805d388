"""The client's error tree.

VeridictError                 one request failed; has ``code`` and ``request_id``
+- InputError                 the client cannot send the input (a missing file, a wrong type)
+- InvalidImageError          the server refused the image; ``code`` is one of the ``image.*`` codes; never retried
+- UnknownPolicyError         the server has no policy of the name that the request gives; never retried
+- ServerError                the server gave no verdict on an acceptable image
|  +- UnavailableError        no connection, or the server is stopping; retried
|  |  +- TlsError             no connection, because a certificate was refused or the server uses no TLS; retried on
|  |                          another replica only
|  +- OverloadedError         the server is full; retried with backoff. With the code ``client.throttled`` the request
|  |                          was not sent, since the server refused many requests of the last second
|  +- DeadlineError           no answer before the deadline
|  +- InternalError           the server failed; its log says why
+- ProtocolError              the answer is no ``veridict/1`` document, or the server has no detector
"""

from __future__ import annotations

import re

from .tls_problems import find_tls_problem, hint_of_closed_connection

#: Messages of gRPC about calls that ended with their stream, under the status INTERNAL or UNKNOWN.
_BROKEN = ("RST_STREAM", "Stream removed", "connection was closed")
#: Triton's message about a model that it has unloaded: a server that stops says that under the status NOT_FOUND.
_UNLOADED = "has no available versions"
_CODE = re.compile(r"\[((?:image|server)\.[a-z_]+)\]\s*(.*)", re.DOTALL)


class VeridictError(Exception):
    """One request failed."""

    default_code = "client.error"

    def __init__(self, message: str, *, code: str = "", request_id: str = "") -> None:
        """Build with a sentence for people, a stable machine code and the request's id."""
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.request_id = request_id


class InputError(VeridictError):
    """The client cannot send the input."""

    default_code = "client.input"


class InvalidImageError(VeridictError):
    """The server refused the image."""

    default_code = "image.corrupt"


class UnknownPolicyError(VeridictError):
    """The server has no policy of the name that the request gives."""

    default_code = "server.unknown_policy"


class ServerError(VeridictError):
    """The server gave no verdict on an acceptable image."""

    default_code = "server.error"


class UnavailableError(ServerError):
    """No connection to the server, or it is stopping."""

    default_code = "server.unavailable"


class TlsError(UnavailableError):
    """The TLS handshake failed: a certificate was refused, or the server uses no TLS."""

    default_code = "client.tls"


class OverloadedError(ServerError):
    """The server has reached its limit of images in flight."""

    default_code = "server.overloaded"


class DeadlineError(ServerError):
    """No answer came before the deadline."""

    default_code = "server.deadline"


class InternalError(ServerError):
    """The server failed; its log says why."""

    default_code = "server.internal"


class ProtocolError(VeridictError):
    """The client does not understand the answer."""

    default_code = "client.protocol"


def from_status(status: str, message: str, request_id: str) -> VeridictError:
    """Return the typed error for a gRPC status name (``UNAVAILABLE``) and the server's message."""
    found = _CODE.search(message)
    code, sentence = (found.group(1), found.group(2)) if found else ("", message)
    name = status.rpartition(".")[2]
    if code.startswith("image."):
        return InvalidImageError(sentence, code=code, request_id=request_id)
    if code == UnknownPolicyError.default_code:
        return UnknownPolicyError(sentence, request_id=request_id)
    if code == OverloadedError.default_code or "maximum queue size" in message or name == "RESOURCE_EXHAUSTED":
        return OverloadedError("the server is full", request_id=request_id)
    if code == DeadlineError.default_code or name == "DEADLINE_EXCEEDED" or "timeout expired" in message.lower():
        return DeadlineError("no answer before the deadline", request_id=request_id)
    if name == "UNAVAILABLE" and (problem := find_tls_problem(message)):
        return TlsError(f"no connection: {problem} ({sentence})", request_id=request_id)
    if name in ("UNAVAILABLE", "CANCELLED") or any(broken in message for broken in (*_BROKEN, _UNLOADED)):
        hint = hint_of_closed_connection(message)
        return UnavailableError(f"the server cannot be reached: {sentence}{hint}", request_id=request_id)
    if name in ("NOT_FOUND", "UNIMPLEMENTED", "INVALID_ARGUMENT"):
        return ProtocolError(f"the server does not serve this detector: {sentence}", request_id=request_id)
    return InternalError(sentence, request_id=request_id)


def is_retryable(error: VeridictError) -> bool:
    """Return whether the same request may succeed later: nothing was judged, and nothing was wrong with the image."""
    return isinstance(error, UnavailableError | OverloadedError) and not isinstance(error, TlsError)


def may_succeed_elsewhere(error: VeridictError) -> bool:
    """Return whether another replica may answer the same request.

    An internal error is retried there once, since its cause may lie with that replica alone. Another replica may have a
    certificate that this client trusts.
    """
    return is_retryable(error) or isinstance(error, InternalError | TlsError)
