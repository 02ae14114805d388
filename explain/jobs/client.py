"""Clients of the explanation queue, blocking and asyncio. They need Redis and the store, no torch and no OpenCV."""

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
from .embedded_redis import answers, socket_url
from .job import Job, JobStatus, Priority
from .queue import JobQueue
from .settings import QueueSettings
from .store import Store, image_of

#: Encoded bytes, the path of an image file, or the sha256 (64 hexadecimal digits) of an image stored before.
Image = bytes | str | os.PathLike[str]
_POLL = (0.05, 1.0)


@dataclass(frozen=True)
class Submission:
    """What was submitted: the image's sha256 and a job id per method."""

    sha256: str
    jobs: dict[str, str]


def redis_url(settings: QueueSettings) -> str:
    """Return the configured URL, or that of the embedded Redis a worker runs in the state folder.

    Raises:
        ExplainError: ``explain.queue`` when there is neither.
    """
    if settings.redis_url:
        return settings.redis_url
    folder = settings.state / "redis"
    if not answers(folder):
        raise ExplainError("explain.queue", "start a worker first: veridict worker; or set VERIDICT_REDIS_URL")
    return socket_url(folder)


class ExplanationClient:
    """Submits explanation jobs and reads their results; a context manager, safe to share between threads.

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
        face: int = 0,
        budget: Budget | None = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> Submission:
        """Store the image and queue one job per method; once this returns, the jobs survive a restart.

        The same image, method, model version, face and budget are the same job: it is not computed twice.
        ``trace_context`` defaults to the current OpenTelemetry span's.

        Raises:
            ExplainError: ``explain.unknown_method``, ``explain.bad_request``, ``explain.unknown_image``,
                ``explain.store`` or ``explain.queue``; jobs of this call that were queued before stay queued.
        """
        chosen = get_methods(methods)
        versions = self._versions()
        trace: dict[str, str] = dict(trace_context or {})
        if trace_context is None:
            propagate.inject(trace)
        probe = "0" * 64
        for method in chosen:  # a bad request is refused before anything is stored
            Job.create(probe, method.name, versions[method.model], priority, face, budget)
        sha256 = self._store_image(image)
        jobs = {}
        for method in chosen:
            job = Job.create(sha256, method.name, versions[method.model], priority, face, budget, trace)
            if self.store.state(job.id) is None:  # Redis forgets finished jobs, the store does not
                self.queue.submit(job)
            jobs[method.name] = job.id
        return Submission(sha256, jobs)

    def _versions(self) -> dict[str, str]:
        from ..models import model_versions

        return {**model_versions(), **self.queue.model_versions()}

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
        """Return a job's state.

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
        """Return a finished job's explanation.

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
        """Return a finished job's picture (PNG), or raise as :meth:`fetch`."""
        self.fetch(job)
        return self.store.get_figure(job)

    def wait(self, job: str, timeout: float = 120.0) -> Attribution:
        """Return the explanation as soon as it is there.

        Raises:
            ExplainError: ``explain.timeout``, else as :meth:`fetch`.
        """
        ends = time.monotonic() + timeout
        pause = _POLL[0]
        while not self.status(job).finished:
            if time.monotonic() + pause > ends:
                raise ExplainError("explain.timeout", job)
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL[1])
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
    """The asyncio twin of :class:`ExplanationClient`: Redis and the store are talked to in threads.

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
        face: int = 0,
        budget: Budget | None = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> Submission:
        """Queue jobs; as :meth:`ExplanationClient.submit`."""
        options = {"priority": priority, "face": face, "budget": budget, "trace_context": trace_context}
        return await asyncio.to_thread(self._client.submit, image, list(methods), **options)  # type: ignore[arg-type]

    async def status(self, job: str) -> JobStatus:
        """Return a job's state; as :meth:`ExplanationClient.status`."""
        return await asyncio.to_thread(self._client.status, job)

    async def fetch(self, job: str) -> Attribution:
        """Return a finished explanation; as :meth:`ExplanationClient.fetch`."""
        return await asyncio.to_thread(self._client.fetch, job)

    async def figure(self, job: str) -> bytes:
        """Return a finished job's picture (PNG); as :meth:`ExplanationClient.figure`."""
        return await asyncio.to_thread(self._client.figure, job)

    async def wait(self, job: str, timeout: float = 120.0) -> Attribution:
        """Return the explanation as soon as it is there; as :meth:`ExplanationClient.wait`."""
        pause = _POLL[0]
        try:
            async with asyncio.timeout(timeout):
                while not (await self.status(job)).finished:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _POLL[1])
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
