"""What a job is: one image, one method, one model version; and the id that makes submitting twice the same as once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..attribution import Budget
from ..errors import ExplainError
from ..methods import get_method

Priority = Literal["live", "batch"]
PRIORITIES: tuple[Priority, ...] = ("live", "batch")
#: queued: waiting. running: a worker holds it. done: the result is stored. failed: the stored answer is that there can
#: be no result. dead: every delivery failed; it lies in the dead-letter stream until somebody requeues it.
State = Literal["queued", "running", "done", "failed", "dead"]


def job_id(sha256: str, method: str, version: str, face: int = 0, budget: Budget | None = None) -> str:
    """Return the idempotent key: image, method and model version; another face or budget is another job."""
    parts = [sha256, method, version]
    if face:
        parts.append(f"face{face}")
    if budget is not None and budget != Budget():
        parts.append(hashlib.sha256(json.dumps(asdict(budget), sort_keys=True).encode()).hexdigest()[:8])
    return "-".join([*parts[:2], ".".join(parts[2:])])


@dataclass(frozen=True)
class Job:
    """One job as a worker receives it; ``trace`` is the W3C trace context of the request that asked for it."""

    id: str
    sha256: str
    method: str
    version: str
    priority: Priority = "live"
    face: int = 0
    budget: Budget = field(default_factory=Budget)
    trace: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        sha256: str,
        method: str,
        version: str,
        priority: Priority = "live",
        face: int = 0,
        budget: Budget | None = None,
        trace: dict[str, str] | None = None,
    ) -> Job:
        """Return a new job with its id.

        Raises:
            ExplainError: ``explain.unknown_method``, or ``explain.bad_request`` for a priority or face out of range.
        """
        get_method(method)
        if priority not in PRIORITIES:
            raise ExplainError("explain.bad_request", f"priority is live or batch, not {priority!r}")
        if face < 0:
            raise ExplainError("explain.bad_request", f"face {face}")
        budget = budget or Budget()
        key = job_id(sha256, method, version, face, budget)
        return cls(key, sha256, method, version, priority, face, budget, dict(trace or {}))

    def to_fields(self) -> dict[str, str]:
        """Return the job as a flat Redis hash."""
        return {
            "sha256": self.sha256,
            "method": self.method,
            "version": self.version,
            "priority": self.priority,
            "face": str(self.face),
            "budget": json.dumps(asdict(self.budget)),
            "trace": json.dumps(self.trace),
        }

    @classmethod
    def from_fields(cls, key: str, fields: dict[str, str]) -> Job:
        """Return the job of a Redis hash.

        Raises:
            ExplainError: ``explain.bad_request`` when the hash is damaged or of another version.
        """
        try:
            priority: Priority = "batch" if fields["priority"] == "batch" else "live"
            budget = Budget.from_mapping(json.loads(fields["budget"]))
            plain = (key, fields["sha256"], fields["method"], fields["version"])
            return cls(*plain, priority, int(fields["face"]), budget, dict(json.loads(fields["trace"])))
        except (KeyError, ValueError, TypeError) as error:
            raise ExplainError("explain.bad_request", f"job {key[:90]} is damaged") from error


@dataclass(frozen=True)
class JobStatus:
    """What is known of a job: its state, tries so far, and the code and sentence of its last failure."""

    id: str
    state: State
    method: str
    priority: str
    deliveries: int = 0
    code: str = ""
    message: str = ""
    seconds: float | None = None

    @property
    def finished(self) -> bool:
        """Return whether nothing more will happen by itself."""
        return self.state in ("done", "failed", "dead")

    def document(self) -> dict[str, Any]:
        """Return the status ready for JSON."""
        return asdict(self)
