"""The worker: takes a job, computes the explanation, stores it, and only then acknowledges the job.

A worker runs one job at a time; start more workers for more throughput. A background thread renews the lease of the
current job, so that no other worker takes a slow job over. If this process was stopped for longer than the lease,
another worker has taken the job over, and it is cancelled here. With a duty-cycle limiter, a job pauses while the
server gives verdicts.
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
from ..retry import backoff_seconds
from ..subject import read_subject
from .duty_cycle import DutyCycleLimiter
from .job import Job
from .queue import JobQueue
from .store import Store
from .streams import Delivery
from .telemetry import TRACER, Metrics
from .webhook import WebhookSender

LOG = logging.getLogger("veridict.explain")
_POLL_INTERVAL = 0.1
_STALLED_AFTER = 30.0
#: Seconds between two checks of a store that works, and of one that does not.
_STORE_CHECK, _STORE_RETRY = 30.0, 2.0


class Worker:
    """Works until it is stopped. The queue's scripts guarantee delivery, so this process may die at any moment."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        models: Models,
        metrics: Metrics,
        *,
        limiter: DutyCycleLimiter | None = None,
        grace: float = 20.0,
        restart_redis: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the parts of a worker; ``grace`` is how many seconds a job may still run after :meth:`stop`.

        ``limiter`` pauses jobs while the server gives verdicts; :meth:`stop` ends its pauses. ``restart_redis`` is
        called when Redis cannot be reached, before the next try; it starts the embedded Redis again.
        """
        self.queue, self.store, self.models, self.metrics = queue, store, models, metrics
        self._limiter, self._grace, self._restart_redis = limiter, grace, restart_redis
        self._stopping = threading.Event()
        self._current: tuple[Delivery, Cancellation] | None = None
        self._lease = threading.Lock()
        self._last_turn = time.monotonic()
        self._next_store_check = self._last_turn
        self._store_fault = ""
        webhook = queue.settings.webhook
        self._sender = WebhookSender(queue, webhook) if webhook else None

    def stop(self) -> None:
        """Take no further job. The current one finishes within the grace time or returns to the queue uncounted.

        It takes a lock, so a signal handler must not call it: see :mod:`veridict.explain.jobs.stop_signals`.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._limiter is not None:
            self._limiter.stop()
        threading.Thread(target=self._enforce_grace, daemon=True).start()

    def _enforce_grace(self) -> None:
        time.sleep(self._grace)
        current = self._current
        if current is not None:
            current[1].cancel()

    def run(self) -> None:
        """Work until :meth:`stop`; when Redis fails, try again until it is back."""
        threads = [threading.Thread(target=self._renew_leases, daemon=True)]
        if self._sender is not None:
            threads.append(threading.Thread(target=self._send_completions, daemon=True))
        for thread in threads:
            thread.start()
        registered = False
        while not self._stopping.is_set():
            self._last_turn = time.monotonic()
            try:
                if not registered:
                    self.queue.register_worker(self.models.versions)
                    registered = True
                if not self._store_works():
                    self._stopping.wait(_STORE_RETRY)
                    continue
                delivery = self.queue.take()
                if delivery is None:
                    self._stopping.wait(_POLL_INTERVAL)
                else:
                    self.handle(delivery)
            except (redis.RedisError, ExplainError) as error:
                # The current job, if any, stays pending in Redis and is delivered again after its lease.
                LOG.warning("Redis or the store failed (%s); trying again", error)
                registered = False  # a Redis that lost its data lost the consumer groups as well
                self._try_to_restart_redis()
        for thread in threads:
            thread.join(timeout=10)

    def _store_works(self, now: bool = False) -> bool:
        """Return whether the store can be used; checked ``now``, or when the last check is some time ago.

        Without its store a worker takes no jobs: it could only fail them, until the queue has no more for the others.
        """
        if not now and time.monotonic() < self._next_store_check:
            return True
        try:
            self.store.check()
        except ExplainError as error:
            self._next_store_check = 0.0
            if self._store_fault != str(error):
                LOG.warning("the store %s cannot be used, so no jobs are taken: %s", self.store.url, error)
            self._store_fault = str(error)
            return False
        if self._store_fault:
            LOG.warning("the store can be used again")
        self._store_fault = ""
        self._next_store_check = time.monotonic() + _STORE_CHECK
        return True

    def _try_to_restart_redis(self) -> None:
        self._stopping.wait(1.0)
        try:
            self._restart_redis()
        except ExplainError as error:
            LOG.warning("%s", error)

    def handle(self, delivery: Delivery) -> None:
        """Process one delivery: the job is finished, returned to the queue, or moved to the dead letters.

        Raises:
            redis.RedisError: Redis cannot be reached; the job is not acknowledged.
        """
        try:
            job = self.queue.start(delivery)
        except ExplainError as error:
            self._count("unknown", "dead", error)
            self.queue.dead_letter(delivery, error)
            return
        if job is None:
            return
        if delivery.count > self.queue.settings.deliveries and not self._is_stored(job):  # all its workers died
            crashed = ExplainError("explain.crashed")
            self._count(job.method, "dead", crashed)
            self.queue.dead_letter(delivery, crashed)
            return
        cancellation = Cancellation(job.budget.seconds, self._limiter)
        if self._limiter is not None:
            self._limiter.begin()
        self._current = delivery, cancellation
        started = time.perf_counter()
        try:
            context = propagate.extract(job.trace)
            with TRACER.start_as_current_span("veridict.explain", context=context) as span:
                span.set_attributes({"veridict.job": job.id, "veridict.delivery": delivery.count})
                failure = self._answer(job, cancellation)
                if failure is not None:
                    span.set_status(Status(StatusCode.ERROR, failure.code))
            with self._lease:  # no renewal may follow the return of a job, or the next worker would wait for the lease
                self._current = None
            self._settle(job, delivery, failure, cancellation, time.perf_counter() - started)
        finally:
            self._current = None

    def _answer(self, job: Job, cancellation: Cancellation) -> ExplainError | None:
        """Compute and store the result; return None, or the error (it is stored as the result if it is final)."""
        try:
            if self.store.state(job.id) is not None:  # a worker stored it and died before acknowledging
                return None
            if self.models.versions[get_method(job.method).model] != job.version:
                return ExplainError("explain.model_mismatch", f"asked for {job.version}")
            subject = read_subject(self.store.get_image(job.sha256), job.face, self.models.score_faces)
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
            # This worker stops, or another one took the job over: not the job's fault. The script checks who owns it.
            self._count(job.method, "returned", None)
            self.queue.release(delivery, None, 0.0, uncounted=True)
        elif error.code == "explain.store" and not self._store_works(now=True):
            # This worker has lost its store: not the job's fault either.
            self._count(job.method, "returned", error)
            self.queue.release(delivery, error, self.queue.settings.backoff, uncounted=True)
        elif delivery.count >= self.queue.settings.deliveries:
            self._count(job.method, "dead", error)
            self.queue.dead_letter(delivery, error)
        else:
            self._count(job.method, "retried", error)
            self.queue.release(delivery, error, backoff_seconds(self.queue.settings.backoff, delivery.count))
        outcome = error.code if error else "stored"
        context = {"job": job.id, "method": job.method}  # fields of a structured log
        LOG.info("%s %s after %.2f s: %s", job.method, job.id[:12], seconds, outcome, extra=context)

    def _count(self, method: str, outcome: str, error: ExplainError | None) -> None:
        self.metrics.jobs.labels(method, outcome).inc()
        if error is not None:
            self.metrics.failures.labels(error.code).inc()

    def _renew_leases(self) -> None:
        pause = self.queue.settings.lease / 4
        while not (self._stopping.is_set() and self._current is None):
            if self._stopping.is_set():
                time.sleep(min(pause, 0.25))
            else:
                self._stopping.wait(pause)
            current = self._current
            if current is None:
                continue
            delivery, cancellation = current
            try:
                with self._lease:
                    if self._current is not current:
                        continue
                    renewed = self.queue.by_name[delivery.stream].renew(delivery.id)
                if not renewed:
                    LOG.warning("another worker took job %s over", delivery.fields.get("job", "")[:12])
                    cancellation.cancel()
            except redis.RedisError:
                continue  # the main loop handles a Redis that cannot be reached

    def _send_completions(self) -> None:
        sender = self._sender
        assert sender is not None
        while not self._stopping.is_set():
            before = sender.posted, sender.failed
            try:
                found = sender.step()
            except (redis.RedisError, ExplainError):
                found = False
                sender.reset()
            for outcome, old, new in zip(("posted", "failed"), before, (sender.posted, sender.failed), strict=True):
                self.metrics.webhooks.labels(outcome).inc(new - old)
            if not found:
                self._stopping.wait(0.5)

    def check_live(self) -> str:
        """Return an empty string while a job runs or the main loop turns, otherwise what is wrong."""
        stalled = self._current is None and time.monotonic() - self._last_turn >= _STALLED_AFTER
        return f"the main loop has stalled for {_STALLED_AFTER:.0f} s" if stalled else ""

    def check_ready(self) -> str:
        """Return why this worker cannot run jobs now, or an empty string."""
        try:
            self.queue.client.ping()
            self.store.check()
        except (redis.RedisError, ExplainError) as error:
            return f"{type(error).__name__}: {error}"
        return "stopping" if self._stopping.is_set() else ""
