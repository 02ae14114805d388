"""The thin gRPC client of the Veridict detector, sync and asyncio, with typed verdicts and errors."""

from veridict.forensics.contract import (
    Category,
    ClipPrediction,
    Evidence,
    Face,
    ImageFacts,
    KnownContent,
    KnownMatch,
    ModelVersions,
    Provenance,
    ProvenanceTrace,
    Signal,
    Verdict,
)
from veridict.forensics.policy_answers import LabelScore, Shadow

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
    TlsError,
    UnavailableError,
    UnknownPolicyError,
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
    "KnownContent",
    "KnownMatch",
    "LabelScore",
    "ModelVersions",
    "OverloadedError",
    "ProtocolError",
    "Provenance",
    "ProvenanceTrace",
    "ReplicaState",
    "Result",
    "ServerError",
    "Shadow",
    "Signal",
    "Tls",
    "TlsError",
    "Transport",
    "UnavailableError",
    "UnknownPolicyError",
    "Verdict",
    "VeridictError",
]
