"""Explanations: attribution and forensic maps, their rendering, and the job queue that delivers them.

Importing this package imports neither torch nor OpenCV. A method that needs them imports them when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .attribution import Attribution, Budget, Cancellation
from .errors import ExplainError

if TYPE_CHECKING:
    from .jobs.client import AsyncExplanationClient, ExplanationClient, Submission
    from .jobs.job import JobStatus
    from .jobs.settings import QueueSettings, Webhook
    from .jobs.webhook_signature import verify

__all__ = [
    "AsyncExplanationClient",
    "Attribution",
    "Budget",
    "Cancellation",
    "ExplainError",
    "ExplanationClient",
    "JobStatus",
    "QueueSettings",
    "Submission",
    "Webhook",
    "verify",
]

_LAZY = {
    "AsyncExplanationClient": "jobs.client",
    "ExplanationClient": "jobs.client",
    "JobStatus": "jobs.job",
    "QueueSettings": "jobs.settings",
    "Submission": "jobs.client",
    "Webhook": "jobs.settings",
    "verify": "jobs.webhook_signature",
}


def __getattr__(name: str) -> Any:
    """Import the names of the queue when they are first used, so that reports need no Redis client."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
