"""Clients of the explanation queue, blocking and asyncio. They need Redis and the store, but no torch and no OpenCV."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from opentelemetry import propagate

from ..attribution import Attribution, Budget
from ..errors import ExplainError
from ..methods import get_method, get_methods
from ..retry import poll_intervals
from .embedded_redis import is_running, socket_url
from .job import Job, JobStatus, Priority
from .queue import JobQueue
from .settings import QueueSettings
from .store import Store, image_of

#: Encoded bytes, the path of an image file, or the sha256 (64 hexadecimal digits) of an image that is stored already.
Image = bytes | str | os.PathLike[str]


@dataclass(frozen=True)
class Submission:
    """The result of a submission: the sha256 of the image and one job id per method."""

    sha256: str
    jobs: dict[str, str]


def redis_url(settings: QueueSettings) -> str:
    """Return the configured URL, or the URL of the embedded Redis that a worker runs in the state folder.

    Raises:
        ExplainError: ``explain.queue`` when no URL is configured and no embedded Redis runs.
    """
    if settings.redis_url:
        return settings.redis_url
    folder = settings.state / "redis"
    if not is_running(folder):
        raise ExplainError("explain.queue", "start a worker first (veridict worker), or set VERIDICT_REDIS_URL")
    return socket_url(folder)


class ExplanationClient:
    """Submits explanation jobs and reads their results. A context manager; threads may share it.

    >>> with ExplanationClient() as client:  # doctest: +SKIP
    ...     jobs = client.submit("photo.jpg", ["saliency", "ela"]).jobs
    ...     result = client.wait(jobs["saliency"], timeout=60)
    """

    def __init__(self, settings: QueueSettings | None = None) -> None:
        """Take the queue's settings, by default those of the environment."""
        self.settings = settings or QueueSettings.from_environment()
        self.store = Store(self.settings.store)
        self.queue = JobQueue(self.settings, redis_url(self.settings))

    def submit(
        self,
        image: Image,
        methods: Iterable[str],
        *,
        priority: Priority = "live",
        face: int | None = None,
        budget: Budget | None = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> Submission:
        """Store the image and queue one job per method. When this returns, the jobs survive a restart.

        The same image, method, model version, face and budget make the same job: it is not computed again.
        ``trace_context`` defaults to the context of the current OpenTelemetry span.

        Raises:
            ExplainError: ``explain.unknown_method``, ``explain.bad_request``, ``explain.unknown_image``,
                ``explain.store`` or ``explain.queue``. Jobs that this call queued before the error stay queued.
        """
        chosen = get_methods(methods)
        versions = self._versions()
        trace: dict[str, str] = dict(trace_context or {})
        if trace_context is None:
            propagate.inject(trace)
        probe = "0" * 64
        for method in chosen:  # refuse a bad request before anything is stored
            if method.model not in versions:
                detail = f"{method.name!r}: the workers that run are of an older version"
                raise ExplainError("explain.unknown_method", detail)
            Job.create(probe, method.name, versions[method.model], priority, face, budget)
        sha256 = self._store_image(image)
        jobs = {}
        for method in chosen:
            job = Job.create(sha256, method.name, versions[method.model], priority, face, budget, trace)
            if self.store.state(job.id) is None:  # Redis forgets finished jobs, the store keeps them
                self.queue.submit(job)
            jobs[method.name] = job.id
        return Submission(sha256, jobs)

    def _versions(self) -> dict[str, str]:
        """Return the versions that the workers registered; before the first worker, those of the own repository."""
        registered = self.queue.model_versions()
        if registered:
            return registered
        from ..models import model_versions

        return model_versions(self.settings.repository)

    def _store_image(self, image: Image) -> str:
        if isinstance(image, str) and len(image) == 64 and all(c in "0123456789abcdef" for c in image):
            self.store.get_image(image)
            return image
        if isinstance(image, str | os.PathLike):
            try:
                return self._store_image(Path(image).read_bytes())
            except OSError as error:
                name = os.fspath(image)
                raise ExplainError("explain.bad_request", f"cannot read {name}: {error.strerror}") from error
        if not isinstance(image, bytes | bytearray | memoryview):
            raise ExplainError(
                "explain.bad_request", f"an image is bytes, a path or a sha256, not {type(image).__name__}"
            )
        if not image:
            raise ExplainError("explain.image", "image.empty")
        return self.store.put_image(bytes(image))

    def status(self, job: str) -> JobStatus:
        """Return the state of a job.

        Raises:
            ExplainError: ``explain.unknown_job``.
        """
        image_of(job)
        status = self.queue.status(job)
        if status is not None:
            return status
        stored = self.store.state(job)
        method = job.split("-")[1]
        if stored not in ("done", "failed"):
            raise ExplainError("explain.unknown_job", job)
        return JobStatus(job, "done" if stored == "done" else "failed", get_method(method).name, "")

    def fetch(self, job: str) -> Attribution:
        """Return the explanation of a finished job.

        Raises:
            ExplainError: ``explain.not_ready``, ``explain.dead``, ``explain.unknown_job``, or the stored error.
        """
        status = self.status(job)
        if status.state == "dead":
            raise ExplainError("explain.dead", f"{status.code}: {status.message}")
        if not status.finished:
            raise ExplainError("explain.not_ready", f"{job} is {status.state}")
        return self.store.get_result(job)

    def figure(self, job: str) -> bytes:
        """Return the figure (PNG) of a finished job; errors as in :meth:`fetch`."""
        self.fetch(job)
        return self.store.get_figure(job)

    def wait(self, job: str, timeout: float = 120.0) -> Attribution:
        """Return the explanation as soon as the job is finished.

        Raises:
            ExplainError: ``explain.timeout``, otherwise as in :meth:`fetch`.
        """
        ends = time.monotonic() + timeout
        intervals = poll_intervals()
        while not self.status(job).finished:
            interval = next(intervals)
            if time.monotonic() + interval > ends:
                raise ExplainError("explain.timeout", job)
            time.sleep(interval)
        return self.fetch(job)

    def close(self) -> None:
        """Close the connections."""
        self.queue.close()

    def __enter__(self) -> ExplanationClient:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class AsyncExplanationClient:
    """The asyncio form of :class:`ExplanationClient`; calls to Redis and the store run in threads.

    >>> async with AsyncExplanationClient() as client:  # doctest: +SKIP
    ...     result = await client.wait((await client.submit(data, ["shap"])).jobs["shap"])
    """

    def __init__(self, settings: QueueSettings | None = None) -> None:
        """Take the queue's settings, by default those of the environment."""
        self._client = ExplanationClient(settings)

    async def submit(
        self,
        image: Image,
        methods: Iterable[str],
        *,
        priority: Priority = "live",
        face: int | None = None,
        budget: Budget | None = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> Submission:
        """Queue jobs; see :meth:`ExplanationClient.submit`."""
        options = {"priority": priority, "face": face, "budget": budget, "trace_context": trace_context}
        return await asyncio.to_thread(self._client.submit, image, list(methods), **options)  # type: ignore[arg-type]

    async def status(self, job: str) -> JobStatus:
        """Return the state of a job; see :meth:`ExplanationClient.status`."""
        return await asyncio.to_thread(self._client.status, job)

    async def fetch(self, job: str) -> Attribution:
        """Return the explanation of a finished job; see :meth:`ExplanationClient.fetch`."""
        return await asyncio.to_thread(self._client.fetch, job)

    async def figure(self, job: str) -> bytes:
        """Return the figure (PNG) of a finished job; see :meth:`ExplanationClient.figure`."""
        return await asyncio.to_thread(self._client.figure, job)

    async def wait(self, job: str, timeout: float = 120.0) -> Attribution:
        """Return the explanation as soon as the job is finished; see :meth:`ExplanationClient.wait`."""
        intervals = poll_intervals()
        try:
            async with asyncio.timeout(timeout):
                while not (await self.status(job)).finished:
                    await asyncio.sleep(next(intervals))
        except TimeoutError as error:
            raise ExplainError("explain.timeout", job) from error
        return await self.fetch(job)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> AsyncExplanationClient:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()
