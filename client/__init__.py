"""The thin gRPC client of the Veridict detector, sync and asyncio, with typed verdicts and errors."""

from veridict.forensics.contract import (
    Category,
    ClipPrediction,
    Evidence,
    Face,
    ImageFacts,
    ModelVersions,
    Signal,
    Verdict,
)

from ._aio import AsyncDetectorClient
from ._config import ClientConfig, Tls
from ._errors import (
    DeadlineError,
    InputError,
    InternalError,
    InvalidImageError,
    OverloadedError,
    ProtocolError,
    ServerError,
    UnavailableError,
    VeridictError,
)
from ._sync import DetectorClient
from ._types import Answer, ImageInput, Result, Transport
from .balancer import ReplicaState

__all__ = [
    "Answer",
    "AsyncDetectorClient",
    "Category",
    "ClientConfig",
    "ClipPrediction",
    "DeadlineError",
    "DetectorClient",
    "Evidence",
    "Face",
    "ImageFacts",
    "ImageInput",
    "InputError",
    "InternalError",
    "InvalidImageError",
    "ModelVersions",
    "OverloadedError",
    "ProtocolError",
    "ReplicaState",
    "Result",
    "ServerError",
    "Signal",
    "Tls",
    "Transport",
    "UnavailableError",
    "Verdict",
    "VeridictError",
]
