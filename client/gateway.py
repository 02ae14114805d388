"""A thin HTTP gateway: an image in, the client's JSON out, for callers that have no gRPC.

``POST /v1/detect`` takes a multipart form with the image in the field ``media``, or the bytes themselves as the body.
``?format=`` chooses one of :data:`.formats.FORMATS`. The answer is the document that ``veridict detect --json`` prints,
with the file name of the form as ``path``. ``?policy=`` names the policy that judges. ``GET /healthz`` is 200 when a
detector is ready, else 503.

Errors have the codes of the client. HTTP status: 400 for a request without an image or with an unknown policy, 413 for
an image that is too large, 422 for one that is refused, 429 when gateway or detector is full, 502 for an answer that is
not understood, 503 without a detector, 504 past the deadline, 500 for the rest.

Uploads stay in memory: nothing is written to disk or logged.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ._aio import AsyncDetectorClient
from ._errors import (
    DeadlineError,
    InputError,
    InvalidImageError,
    OverloadedError,
    ProtocolError,
    UnavailableError,
    UnknownPolicyError,
    VeridictError,
)
from ._types import Result
from .formats import FORMATS

if TYPE_CHECKING:
    from ._config import ClientConfig

#: The form field of the image, as in Sightengine's and Hive's interfaces.
FIELD = "media"
#: The multipart envelope around the image: boundaries and headers.
_ENVELOPE = 64 * 1024
#: Subclasses first.
_STATUS = (
    (InvalidImageError, 422),
    (OverloadedError, 429),
    (DeadlineError, 504),
    (UnavailableError, 503),
    (ProtocolError, 502),
    (InputError, 400),
    (UnknownPolicyError, 400),
)


def http_status(error: VeridictError) -> int:
    """Return the HTTP status for a client error."""
    if error.code == "image.too_large":
        return 413
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request.

    Raises:
        InvalidImageError: it has more than ``most`` bytes; it is not read further.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise InvalidImageError(f"more than {most} bytes", code="image.too_large")
        parts.append(part)
    return b"".join(parts)


async def read_upload(request: Request, most: int) -> tuple[str, bytes]:
    """Return the name and the bytes of the uploaded image.

    Raises:
        InputError: the form is malformed or has no file in the field ``media``, or the body is empty.
        InvalidImageError: the upload has more than ``most`` bytes.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        data = await read_body(request, most)
        if not data:
            raise InputError(f"the body is empty: send the image itself, or a form with the field {FIELD!r}")
        return "", data
    data = await read_body(request, most + _ENVELOPE)

    async def whole() -> AsyncGenerator[bytes, None]:
        yield data

    parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=16, max_part_size=_ENVELOPE)
    # Beyond this size the parser would write the upload to a temporary file.
    parser.spool_max_size = len(data) + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise InputError(f"malformed form: {error}") from error
    upload = form.get(FIELD)
    if not isinstance(upload, UploadFile):
        raise InputError(f"the form has no file in the field {FIELD!r}")
    image = await upload.read()
    if len(image) > most:
        raise InvalidImageError(f"{len(image)} bytes, limit {most}", code="image.too_large")
    if not image:
        raise InputError("the file is empty")
    return upload.filename or "", image


def create_app(config: ClientConfig, max_bytes: int, max_in_flight: int) -> Starlette:
    """Return the gateway as an ASGI application.

    ``max_bytes`` is the size of the largest image that is passed on. Beyond ``max_in_flight`` requests at once, which
    bounds the memory for uploads, the gateway answers 429.
    """
    in_flight = 0

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncDetectorClient(config=config) as client:
            app.state.client = client
            yield

    async def detect(request: Request) -> Response:
        nonlocal in_flight
        in_flight += 1
        try:
            return await judge(request)
        except ClientDisconnect:
            return Response()  # nobody reads it
        finally:
            in_flight -= 1

    async def judge(request: Request) -> Response:
        form = request.query_params.get("format", "json")
        if form not in FORMATS:
            return _failure(InputError(f"format must be one of {', '.join(FORMATS)}, not {form[:40]!r}"), "json", "")
        name = ""
        try:
            if in_flight > max_in_flight:
                raise OverloadedError(f"the gateway has {max_in_flight} requests in flight")
            name, data = await read_upload(request, max_bytes)
            request_id = request.headers.get("x-request-id", "")
            policy = request.query_params.get("policy")
            if policy == "":
                raise UnknownPolicyError("the policy has no name")
            verdict = await request.app.state.client.detect(data, request_id=request_id, policy=policy)
        except VeridictError as error:
            return _failure(error, form, name)
        return JSONResponse(FORMATS[form](name, Result(0, None, verdict, None)))

    async def health(request: Request) -> Response:
        ready = await request.app.state.client.ready()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def refuse(_: Request, error: Exception) -> Response:
        # Only the router's own: an unknown path, a method that is not served.
        status = error.status_code if isinstance(error, HTTPException) else 500
        message = error.detail if isinstance(error, HTTPException) else "unexpected error"
        body = {"error": {"code": "gateway.request", "message": message}}
        return JSONResponse(body, status_code=status, headers=getattr(error, "headers", None))

    routes = [Route("/v1/detect", detect, methods=["POST"]), Route("/healthz", health)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refuse})


def _failure(error: VeridictError, form: str, name: str) -> Response:
    headers = {"Retry-After": "1"} if isinstance(error, OverloadedError) else None
    return JSONResponse(FORMATS[form](name, Result(0, None, None, error)), http_status(error), headers)
