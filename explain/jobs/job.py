"""A job: one image, one method, one model version. Equal jobs have the same id, so a job is queued only once."""

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
#: queued: waiting. running: a worker computes it. done: the result is stored. failed: a final error is stored. dead:
#: every delivery failed; the job stays in the dead-letter stream until an operator queues it again.
State = Literal["queued", "running", "done", "failed", "dead"]


def job_id(sha256: str, method: str, version: str, face: int | None = None, budget: Budget | None = None) -> str:
    """Return the idempotency key: image, method, model version, and face and budget when they are not the default."""
    parts = [sha256, method, version]
    if face is not None:
        parts.append(f"face{face}")
    if budget is not None and budget != Budget():
        parts.append(hashlib.sha256(json.dumps(asdict(budget), sort_keys=True).encode()).hexdigest()[:8])
    return "-".join([*parts[:2], ".".join(parts[2:])])


@dataclass(frozen=True)
class Job:
    """One job as a worker receives it; ``trace`` is the W3C trace context of the request that submitted it."""

    id: str
    sha256: str
    method: str
    version: str
    priority: Priority = "live"
    face: int | None = None
    budget: Budget = field(default_factory=Budget)
    trace: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        sha256: str,
        method: str,
        version: str,
        priority: Priority = "live",
        face: int | None = None,
        budget: Budget | None = None,
        trace: dict[str, str] | None = None,
    ) -> Job:
        """Return a new job with its id.

        Raises:
            ExplainError: ``explain.unknown_method``, or ``explain.bad_request`` for a wrong priority or face.
        """
        get_method(method)
        if priority not in PRIORITIES:
            raise ExplainError("explain.bad_request", f"priority must be live or batch, not {priority!r}")
        if face is not None and face < 0:
            raise ExplainError("explain.bad_request", f"face must be at least 0, not {face}")
        budget = budget or Budget()
        key = job_id(sha256, method, version, face, budget)
        return cls(key, sha256, method, version, priority, face, budget, dict(trace or {}))

    def to_fields(self) -> dict[str, str]:
        """Return the fields of the Redis hash of this job."""
        return {
            "sha256": self.sha256,
            "method": self.method,
            "version": self.version,
            "priority": self.priority,
            "face": "" if self.face is None else str(self.face),
            "budget": json.dumps(asdict(self.budget)),
            "trace": json.dumps(self.trace),
        }

    @classmethod
    def from_fields(cls, key: str, fields: dict[str, str]) -> Job:
        """Return the job from the fields of its Redis hash.

        Raises:
            ExplainError: ``explain.bad_request`` when the hash is damaged or was written by another version.
        """
        try:
            priority: Priority = "batch" if fields["priority"] == "batch" else "live"
            budget = Budget.from_mapping(json.loads(fields["budget"]))
            plain = (key, fields["sha256"], fields["method"], fields["version"])
            face = int(fields["face"]) if fields["face"] else None
            return cls(*plain, priority, face, budget, dict(json.loads(fields["trace"])))
        except (KeyError, ValueError, TypeError) as error:
            raise ExplainError("explain.bad_request", f"job {key[:90]} is damaged") from error


@dataclass(frozen=True)
class JobStatus:
    """The state of a job: deliveries so far, the error code and message of its last failure, and its run time."""

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
        """Return whether the state is final: done, failed or dead."""
        return self.state in ("done", "failed", "dead")

    def document(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        return asdict(self)
