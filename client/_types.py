"""Types the sync and asyncio clients share, and the conversion of every accepted input to encoded bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from veridict.forensics.arrays import Pixels
from veridict.forensics.contract import Verdict

from ._errors import InputError, ProtocolError, VeridictError

#: Encoded bytes, a path, a PIL image, or an array uint8 [H, W, 3] (RGB) or [H, W] (grey).
ImageInput = bytes | bytearray | memoryview | str | os.PathLike[str] | Pixels | Any


@dataclass(frozen=True)
class Answer:
    """What a transport brings back: the verdict document as it came."""

    document: bytes


#: How one call ended.
Outcome = Answer | VeridictError


@dataclass(frozen=True)
class Request:
    """One image to judge, as it is sent: encoded bytes, the request's id, gRPC metadata, and a policy's name or ""."""

    data: bytes
    request_id: str
    headers: dict[str, str]
    policy: str = ""


@dataclass(frozen=True)
class Result:
    """One item of ``detect_many``: its position, what was passed, and a verdict or the error in its place."""

    index: int
    source: Any
    verdict: Verdict | None
    error: VeridictError | None


class Transport(Protocol):
    """How one request reaches a server; tests put their own here."""

    def infer(self, data: bytes, request_id: str, timeout: float, headers: dict[str, str]) -> Answer:
        """Send one encoded image and return the answer, or raise a VeridictError."""

    def ready(self, timeout: float) -> bool:
        """Return whether the server is ready to judge."""

    def close(self) -> None:
        """Release the connection."""


def encode_input(image: ImageInput) -> bytes:
    """Return the encoded bytes to send.

    Files and unmodified PIL images of an accepted format are sent as they are. Arrays and other PIL images are sent as
    PNG, which loses nothing.

    Raises:
        InputError: the file cannot be read, the PIL image cannot be encoded, or the type, dtype or shape is none of the
            accepted ones.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _read_file(image)
    from PIL import Image

    from ._images import encode_image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise InputError(f"an array must be uint8 [H, W, 3] or [H, W], not {image.dtype} {image.shape}")
        if image.size == 0:
            raise InputError(f"the array has no pixels: {image.shape}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"cannot send a {type(image).__name__}: pass bytes, a path, a PIL image or a uint8 array")
    return encode_image(image)


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # a NUL or a lone surrogate in the name, or a path of bytes
        raise InputError(f"cannot read {os.fspath(path)!r}: {error}") from error


def parse_answer(answer: Answer, request_id: str, policy: str = "") -> Verdict:
    """Return the typed verdict.

    Raises:
        ProtocolError: the document is no ``veridict/1`` document, or another policy judged than the request named.
    """
    try:
        verdict = Verdict.from_json(answer.document)
    except ValueError as error:
        raise ProtocolError(str(error), request_id=request_id) from error
    if policy and verdict.policy != policy:  # a server that knows no policies ignores the name
        raise ProtocolError(f"the server did not judge by the policy {policy!r}", request_id=request_id)
    return verdict
