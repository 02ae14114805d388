"""The worker: takes a job, explains, stores, and only then acknowledges.

One job at a time; more workers take more jobs. A background thread renews the lease of the job in hand, so a slow job
is not taken for a dead worker's, and a job lost to another worker after a long pause is cancelled here. A job waits at
the gate, if there is one, while the server gives verdicts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis
from opentelemetry import propagate
from opentelemetry.trace import Status, StatusCode

from ..attribution import Cancellation
from ..errors import ExplainError
from ..methods import get_method, run_method
from ..models import Models
from ..reports.render import render_figure
from ..subject import read_subject
from .gate import Gate
from .job import Job
from .queue import JobQueue
from .store import Store
from .streams import Delivery
from .telemetry import TRACER, Metrics
from .webhook import Poster

LOG = logging.getLogger("veridict.explain")
_IDLE = 0.1
_UNWELL_AFTER = 30.0


class Worker:
    """Works until it is stopped; every promise of delivery is kept by the queue's scripts, not by this process."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        models: Models,
        metrics: Metrics,
        *,
        gate: Gate | None = None,
        grace: float = 20.0,
        revive: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what to work with; ``grace`` is how many seconds a job may still run after :meth:`stop`.

        ``gate`` is where a job waits while verdicts are given; :meth:`stop` opens it. ``revive`` is called when Redis
        is gone, before it is tried again (the embedded one is restarted there).
        """
        self.queue, self.store, self.models, self.metrics = queue, store, models, metrics
        self._gate, self._grace, self._revive = gate, grace, revive
        self._stopping = threading.Event()
        self._held: tuple[Delivery, Cancellation] | None = None
        self._alive = time.monotonic()
        webhook = queue.settings.webhook
        self._poster = Poster(queue, webhook) if webhook else None

    def stop(self) -> None:
        """Take no further job; the one in hand finishes within the grace or goes back to the queue uncounted."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._gate is not None:
            self._gate.stop()
        threading.Thread(target=self._enforce_grace, daemon=True).start()

    def _enforce_grace(self) -> None:
        time.sleep(self._grace)
        held = self._held
        if held is not None:
            held[1].cancel()

    def run(self) -> None:
        """Work until :meth:`stop`; Redis may go and come back meanwhile."""
        threads = [threading.Thread(target=self._renew_leases, daemon=True)]
        if self._poster is not None:
            threads.append(threading.Thread(target=self._post_completions, daemon=True))
        for thread in threads:
            thread.start()
        prepared = False
        while not self._stopping.is_set():
            self._alive = time.monotonic()
            try:
                if not prepared:
                    self.queue.prepare(self.models.versions)
                    prepared = True
                delivery = self.queue.take()
                if delivery is None:
                    self._stopping.wait(_IDLE)
                else:
                    self.handle(delivery)
            except (redis.RedisError, ExplainError) as error:
                # The job in hand, if any, stays pending in Redis and is taken up again after its lease.
                LOG.warning("the queue failed (%s); trying again", error)
                prepared = False  # a Redis that lost its data lost the groups as well
                self._try_to_revive()
        for thread in threads:
            thread.join(timeout=10)

    def _try_to_revive(self) -> None:
        self._stopping.wait(1.0)
        try:
            self._revive()
        except ExplainError as error:
            LOG.warning("%s", error)

    def handle(self, delivery: Delivery) -> None:
        """Work on one delivery to its end: finished, given back or buried.

        Raises:
            redis.RedisError: Redis is gone; the job is not acknowledged.
        """
        try:
            job = self.queue.start(delivery)
        except ExplainError as error:
            self._count("unknown", "dead", error)
            self.queue.bury(delivery, error)
            return
        if job is None:
            return
        if delivery.count > self.queue.settings.deliveries and not self._is_stored(job):  # its workers never came back
            crashed = ExplainError("explain.crashed")
            self._count(job.method, "dead", crashed)
            self.queue.bury(delivery, crashed)
            return
        cancellation = Cancellation(job.budget.seconds, self._gate)
        if self._gate is not None:
            self._gate.begin()
        self._held = delivery, cancellation
        started = time.perf_counter()
        try:
            context = propagate.extract(job.trace)
            with TRACER.start_as_current_span("veridict.explain", context=context) as span:
                span.set_attributes({"veridict.job": job.id, "veridict.delivery": delivery.count})
                failure = self._answer(job, cancellation)
                if failure is not None:
                    span.set_status(Status(StatusCode.ERROR, failure.code))
            self._settle(job, delivery, failure, cancellation, time.perf_counter() - started)
        finally:
            self._held = None

    def _answer(self, job: Job, cancellation: Cancellation) -> ExplainError | None:
        """Compute and store the answer; return what kept it from being stored, or a final error that is stored."""
        try:
            if self.store.state(job.id) is not None:  # stored before a crash that came ahead of the acknowledgement
                return None
            if self.models.versions[get_method(job.method).model] != job.version:
                return ExplainError("explain.model_mismatch", f"asked for {job.version}")
            subject = read_subject(self.store.get_image(job.sha256), job.face)
            result = run_method(job.method, subject, self.models, job.budget, cancellation)
            figure = render_figure(result, subject.image.pixels)
            cancellation.check()
            self.store.put_result(job.id, result, figure)
            self.metrics.seconds.labels(job.method).observe(result.seconds)
            return None
        except ExplainError as error:
            return self._store_failure(job, error) if error.final else error
        except Exception as error:
            LOG.exception("job %s", job.id)
            return ExplainError("explain.internal", type(error).__name__)

    def _is_stored(self, job: Job) -> bool:
        try:
            return self.store.state(job.id) is not None
        except ExplainError:
            return False

    def _store_failure(self, job: Job, error: ExplainError) -> ExplainError:
        try:
            self.store.put_failure(job.id, error)
            return error
        except ExplainError as store_error:
            return store_error

    def _settle(
        self, job: Job, delivery: Delivery, error: ExplainError | None, cancellation: Cancellation, seconds: float
    ) -> None:
        """Tell the queue how the delivery ended."""
        if error is None or error.final:
            self._count(job.method, "failed" if error else "done", error)
            self.queue.finish(delivery, error, seconds)
        elif error.code == "explain.cancelled" and cancellation.cancelled:
            # stopped by us, or lost to another worker: the job is not to blame, and the script checks who owns it
            self._count(job.method, "returned", None)
            self.queue.release(delivery, None, 0.0, uncounted=True)
        elif delivery.count >= self.queue.settings.deliveries:
            self._count(job.method, "dead", error)
            self.queue.bury(delivery, error)
        else:
            self._count(job.method, "retried", error)
            delay = self.queue.settings.backoff * 2 ** (delivery.count - 1)
            self.queue.release(delivery, error, delay)
        LOG.info("%s %s after %.2f s: %s", job.method, job.id[:12], seconds, error.code if error else "stored")

    def _count(self, method: str, outcome: str, error: ExplainError | None) -> None:
        self.metrics.jobs.labels(method, outcome).inc()
        if error is not None:
            self.metrics.failures.labels(error.code).inc()

    def _renew_leases(self) -> None:
        pause = self.queue.settings.lease / 4
        while not (self._stopping.is_set() and self._held is None):
            time.sleep(min(pause, 0.25) if self._stopping.is_set() else pause)
            held = self._held
            if held is None:
                continue
            delivery, cancellation = held
            try:
                if not self.queue.by_name[delivery.stream].renew(delivery.id) and self._held is held:
                    LOG.warning("job %s was taken over by another worker", delivery.fields.get("job", "")[:12])
                    cancellation.cancel()
            except redis.RedisError:
                continue  # the main loop deals with a Redis that stays away

    def _post_completions(self) -> None:
        assert self._poster is not None
        while not self._stopping.is_set():
            before = self._poster.posted, self._poster.failed
            try:
                found = self._poster.step()
            except (redis.RedisError, ExplainError):
                found = False
                self._poster.forget()
            for outcome, old, new in zip(
                ("posted", "failed"), before, (self._poster.posted, self._poster.failed), strict=True
            ):
                self.metrics.webhooks.labels(outcome).inc(new - old)
            if not found:
                self._stopping.wait(0.5)

    def check_live(self) -> str:
        """Return what is wrong with the process, or an empty string: its loop turns, or a job is in hand."""
        held = self._held
        limit = _UNWELL_AFTER
        return "" if held is not None or time.monotonic() - self._alive < limit else "the loop stands still"

    def check_ready(self) -> str:
        """Return why jobs cannot be worked on right now, or an empty string."""
        try:
            self.queue.client.ping()
            self.store.check()
        except (redis.RedisError, ExplainError) as error:
            return f"{type(error).__name__}: {error}"
        return "stopping" if self._stopping.is_set() else ""
