"""The job queue on Redis Streams: submit, take, renew, finish, release, dead-letter, requeue.

Why not ``RedisStreamBroker`` of taskiq-redis (read in 1.2.4, with taskiq 0.13)? Each of these points breaks a guarantee
of this queue:

- It acknowledges a message when the task raised or the result could not be saved.
- It has no delivery limit and no dead-letter stream.
- It reclaims messages by idle time, and long tasks do not renew theirs, so they run twice.
- It reads its streams without priority.
- It creates its consumer group at the end of the stream, so jobs queued before the first worker are skipped.
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
    """One entry of the dead-letter stream: a job that failed on every delivery, and its last failure."""

    entry: str
    job: str
    code: str
    message: str
    deliveries: int
    time: float


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise errors of Redis as ``explain.queue``."""
    try:
        yield
    except redis.RedisError as error:
        raise ExplainError("explain.queue", f"Redis: {type(error).__name__}") from error


class JobQueue:
    """Two streams, the dead letters and a hash per job, under one key prefix (one hash slot on a Redis cluster)."""

    def __init__(self, settings: QueueSettings, url: str, consumer: str = "") -> None:
        """Connect to ``url``; nothing is sent yet. Only workers have a ``consumer`` name.

        A client retries for about ten seconds, while Redis restarts. A worker retries less: its main loop waits for
        Redis, and starts the embedded one again.
        """
        self.settings, self.consumer = settings, consumer
        self.client: Any = connect(url, 4) if consumer else connect(url)
        prefix = settings.prefix
        self.dead_key, self.events_key, self.models_key = f"{prefix}:dead", f"{prefix}:events", f"{prefix}:models"
        self.streams: dict[Priority, Stream] = {
            p: Stream(self.client, f"{prefix}:jobs:{p}", consumer, settings.lease) for p in PRIORITIES
        }
        self.by_name = {stream.name: stream for stream in self.streams.values()}
        texts = (scripts.SUBMIT, scripts.START, scripts.FINISH, scripts.RELEASE, scripts.DEAD_LETTER, scripts.REQUEUE)
        self._submit, self._start, self._finish, self._release, self._dead_letter, self._requeue = (
            self.client.register_script(text) for text in texts
        )

    def key(self, job: str) -> str:
        """Return the key of a job's hash."""
        return f"{self.settings.prefix}:job:{job}"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    # called by clients

    def submit(self, job: Job) -> str:
        """Queue a job unless it is known already; return the state it had before, or ``new``."""
        fields = [text for pair in job.to_fields().items() for text in pair]
        keys = [self.key(job.id), self.streams["live"].name, self.streams["batch"].name]
        with redis_errors():
            return str(self._submit(keys=keys, args=[job.id, job.priority, time.time(), *fields]))

    def status(self, job: str) -> JobStatus | None:
        """Return the state of a job in Redis, or None when Redis does not know it."""
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
        """Return the versions that the workers last registered, by model; empty before the first worker."""
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
        """Queue a dead job again, its deliveries counted from 0; False when it was already queued again."""
        keys = [self.key(letter.job), self.streams["live"].name, self.streams["batch"].name, self.dead_key]
        with redis_errors():
            return bool(self._requeue(keys=keys, args=[letter.entry, letter.job]))

    # called by workers, which handle errors of Redis in one place: their main loop

    def register_worker(self, versions: dict[str, str]) -> None:
        """Create missing streams and consumer groups, and publish the model versions of this worker."""
        for stream in self.streams.values():
            stream.create()
        self.client.hset(self.models_key, mapping=versions)

    def take(self) -> Delivery | None:
        """Return the next delivery: live before batch jobs, and in each stream jobs of dead workers before new ones."""
        for stream in self.streams.values():
            delivery = stream.reclaim() or stream.read()
            if delivery is not None:
                return delivery
        return None

    def start(self, delivery: Delivery) -> Job | None:
        """Mark the job of a delivery as running and return it; drop a stale entry and return None.

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
        """Mark a job as done or failed and acknowledge it, after its result is stored; False when it already was."""
        job = delivery.fields["job"]
        fields = ["state", "failed" if error else "done", "deliveries", delivery.count, "seconds", f"{seconds:.3f}"]
        if error is not None:
            fields += ["code", error.code, "message", error.message]
        keys = [self.key(job), delivery.stream, self.events_key]
        args = [GROUP, delivery.id, job, int(self.settings.keep), self._announce, *fields]
        return bool(self._finish(keys=keys, args=args))

    def release(self, delivery: Delivery, error: ExplainError | None, delay: float, *, uncounted: bool = False) -> None:
        """Return a job for another delivery after ``delay`` seconds; ``uncounted`` ignores this delivery."""
        fields = ["state", "queued"]
        if error is not None:
            fields += ["code", error.code, "message", error.message]
        keys = [self.key(delivery.fields["job"]), delivery.stream]
        count = delivery.count - 1 if uncounted else delivery.count
        idle = max(0, int((self.settings.lease - delay) * 1000)) + 1
        self._release(keys=keys, args=[GROUP, self.consumer, delivery.id, idle, count, *fields])

    def dead_letter(self, delivery: Delivery, error: ExplainError) -> bool:
        """Move a job to the dead-letter stream; False when it was finished or moved already."""
        job = delivery.fields.get("job", "")
        keys = [self.key(job), delivery.stream, self.dead_key, self.events_key]
        args = [GROUP, delivery.id, job, error.code, error.message, delivery.count, time.time(), self._announce]
        args.append(self.consumer)
        return bool(self._dead_letter(keys=keys, args=args))

    @property
    def _announce(self) -> int:
        return int(self.settings.webhook is not None)
