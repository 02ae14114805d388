"""The job queue on Redis Streams: submit, take, renew, finish, return, bury, requeue.

Why not taskiq's ``RedisStreamBroker``: read in 1.2.4 with taskiq 0.13, it acknowledges a message whose task raised or
whose result could not be saved, has neither a delivery limit nor a dead-letter stream, reclaims by idle time without a
sign of life from long tasks (so they run twice), reads its streams without priority, and creates its group at the end
of the stream, so that what was queued before the first worker is skipped. Each would break a promise made here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from ..errors import ExplainError
from . import scripts
from .job import PRIORITIES, Job, JobStatus, Priority
from .settings import QueueSettings
from .streams import GROUP, Delivery, Stream, connect


@dataclass(frozen=True)
class DeadLetter:
    """One entry of the dead-letter stream: the job that failed on every delivery, and how it failed last."""

    entry: str
    job: str
    code: str
    message: str
    deliveries: int
    time: float


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn Redis's errors into ``explain.queue``."""
    try:
        yield
    except redis.RedisError as error:
        raise ExplainError("explain.queue", f"Redis: {type(error).__name__}") from error


class JobQueue:
    """Both streams, the dead letters and a hash per job under one key prefix (one hash slot on a Redis cluster)."""

    def __init__(self, settings: QueueSettings, url: str, consumer: str = "") -> None:
        """Connect to ``url``; nothing is sent yet. Only workers have a ``consumer`` name.

        A client waits for a Redis that restarts; a worker's loop does so itself, and may have to start it.
        """
        self.settings, self.consumer = settings, consumer
        self.client: Any = connect(url, 4) if consumer else connect(url)
        prefix = settings.prefix
        self.dead_key, self.events_key, self.models_key = f"{prefix}:dead", f"{prefix}:events", f"{prefix}:models"
        self.streams: dict[Priority, Stream] = {
            p: Stream(self.client, f"{prefix}:jobs:{p}", consumer, settings.lease) for p in PRIORITIES
        }
        self.by_name = {stream.name: stream for stream in self.streams.values()}
        texts = (scripts.SUBMIT, scripts.START, scripts.FINISH, scripts.RELEASE, scripts.BURY, scripts.REQUEUE)
        self._submit, self._start, self._finish, self._release, self._bury, self._requeue = (
            self.client.register_script(text) for text in texts
        )

    def key(self, job: str) -> str:
        """Return the key of a job's hash."""
        return f"{self.settings.prefix}:job:{job}"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    # what clients do

    def submit(self, job: Job) -> str:
        """Queue a job; a job that is already known is not queued again. Return its earlier state, or ``new``."""
        fields = [text for pair in job.to_fields().items() for text in pair]
        keys = [self.key(job.id), self.streams["live"].name, self.streams["batch"].name]
        with redis_errors():
            return str(self._submit(keys=keys, args=[job.id, job.priority, time.time(), *fields]))

    def status(self, job: str) -> JobStatus | None:
        """Return what Redis knows of a job, or None."""
        with redis_errors():
            found = self.client.hgetall(self.key(job))
        if not found:
            return None
        return JobStatus(
            id=job,
            state=found["state"],
            method=found["method"],
            priority=found["priority"],
            deliveries=int(found.get("deliveries", 0)),
            code=found.get("code", ""),
            message=found.get("message", ""),
            seconds=float(found["seconds"]) if "seconds" in found else None,
        )

    def model_versions(self) -> dict[str, str]:
        """Return the versions the workers last announced, by model; empty before the first worker."""
        with redis_errors():
            return dict(self.client.hgetall(self.models_key))

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead-letter stream, oldest first."""
        with redis_errors():
            found = self.client.xrange(self.dead_key)
        return [
            DeadLetter(e, f["job"], f["code"], f["message"], int(f["deliveries"]), float(f["time"])) for e, f in found
        ]

    def requeue(self, letter: DeadLetter) -> bool:
        """Queue a dead job again with fresh deliveries; False when somebody else did."""
        keys = [self.key(letter.job), self.streams["live"].name, self.streams["batch"].name, self.dead_key]
        with redis_errors():
            return bool(self._requeue(keys=keys, args=[letter.entry, letter.job]))

    # what workers do; they handle Redis's own errors in one place, their loop

    def prepare(self, versions: dict[str, str]) -> None:
        """Create streams and groups where they are missing, and announce this worker's model versions."""
        for stream in self.streams.values():
            stream.create()
        self.client.hset(self.models_key, mapping=versions)

    def take(self) -> Delivery | None:
        """Return a job to work on: live before batch, and within each what a dead worker left before what is new."""
        for stream in self.streams.values():
            delivery = stream.reclaim() or stream.read()
            if delivery is not None:
                return delivery
        return None

    def start(self, delivery: Delivery) -> Job | None:
        """Return the job of a delivery, marked running; None when the entry is stale (it is dropped).

        Raises:
            ExplainError: ``explain.bad_request`` for a damaged job.
        """
        job = delivery.fields.get("job", "")
        entry = f"{delivery.stream} {delivery.id}"
        if self._start(keys=[self.key(job)], args=[entry, delivery.count, time.time()]) != "run":
            self.by_name[delivery.stream].acknowledge(delivery.id)
            return None
        return Job.from_fields(job, self.client.hgetall(self.key(job)))

    def finish(self, delivery: Delivery, error: ExplainError | None = None, seconds: float = 0.0) -> bool:
        """Mark a job whose answer is stored as done or failed and acknowledge it; False when it already was."""
        job = delivery.fields["job"]
        fields = ["state", "failed" if error else "done", "deliveries", delivery.count, "seconds", f"{seconds:.3f}"]
        if error is not None:
            fields += ["code", error.code, "message", error.message]
        keys = [self.key(job), delivery.stream, self.events_key]
        args = [GROUP, delivery.id, job, int(self.settings.keep), self._announce, *fields]
        return bool(self._finish(keys=keys, args=args))

    def release(self, delivery: Delivery, error: ExplainError | None, delay: float, *, uncounted: bool = False) -> None:
        """Give a job back for another delivery after ``delay`` seconds; ``uncounted`` as if never delivered."""
        fields = ["state", "queued"]
        if error is not None:
            fields += ["code", error.code, "message", error.message]
        keys = [self.key(delivery.fields["job"]), delivery.stream]
        count = delivery.count - 1 if uncounted else delivery.count
        idle = max(0, int((self.settings.lease - delay) * 1000)) + 1
        self._release(keys=keys, args=[GROUP, self.consumer, delivery.id, idle, count, *fields])

    def bury(self, delivery: Delivery, error: ExplainError) -> bool:
        """Move a job to the dead-letter stream; False when it was finished or buried already."""
        job = delivery.fields.get("job", "")
        keys = [self.key(job), delivery.stream, self.dead_key, self.events_key]
        args = [GROUP, delivery.id, job, error.code, error.message, delivery.count, time.time(), self._announce]
        args.append(self.consumer)
        return bool(self._bury(keys=keys, args=args))

    @property
    def _announce(self) -> int:
        return int(self.settings.webhook is not None)
