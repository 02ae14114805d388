"""Prometheus metrics, health endpoints and the OpenTelemetry tracer of a worker."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..errors import CODES
from ..methods import METHODS
from .queue import JobQueue

LOG = logging.getLogger("veridict.explain")
TRACER = trace.get_tracer("veridict.explain")
#: How a delivery ends.
OUTCOMES = ("done", "failed", "returned", "retried", "dead")
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)


class QueueCollector(Collector):
    """Reads the queue's gauges from Redis at every scrape; without Redis the gauges are missing."""

    def __init__(self, queue: JobQueue) -> None:
        """Take a queue whose client may be used from the scraping thread."""
        self._queue = queue

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the queue's gauges."""
        waiting = GaugeMetricFamily("veridict_explain_queue_lag", "Jobs that no worker has taken", labels=["priority"])
        running = GaugeMetricFamily("veridict_explain_in_progress", "Jobs taken and not finished", labels=["priority"])
        oldest = GaugeMetricFamily(
            "veridict_explain_oldest_seconds", "Age of the oldest unfinished job", labels=["priority"]
        )
        dead = GaugeMetricFamily("veridict_explain_dead_letters", "Jobs in the dead-letter stream")
        try:
            for priority, stream in self._queue.streams.items():
                free, taken = stream.waiting()
                added = stream.oldest()
                waiting.add_metric([priority], free)
                running.add_metric([priority], taken)
                oldest.add_metric([priority], 0.0 if added is None else max(0.0, time.time() - added))
            dead.add_metric([], self._queue.client.xlen(self._queue.dead_key))
        except redis.RedisError:
            return
        yield from (waiting, running, oldest, dead)


class Metrics:
    """The metrics of a worker, in their own registry."""

    def __init__(self, queue: JobQueue) -> None:
        """Register the metrics of this worker and the gauges of the queue."""
        self.registry = CollectorRegistry()
        self.registry.register(QueueCollector(queue))
        self.seconds = Histogram(
            "veridict_explain_seconds", "Seconds per method", ["method"], buckets=_BUCKETS, registry=self.registry
        )
        self.jobs = Counter(
            "veridict_explain_jobs", "Deliveries by outcome", ["method", "outcome"], registry=self.registry
        )
        self.failures = Counter(
            "veridict_explain_failures", "Failed deliveries by cause", ["cause"], registry=self.registry
        )
        self.paused_seconds = Counter(
            "veridict_explain_waiting_seconds", "Seconds for which jobs paused for verdicts", registry=self.registry
        )
        self.webhooks = Counter(
            "veridict_explain_webhooks", "Completions by delivery", ["outcome"], registry=self.registry
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Export every series from the start: ``rate()`` sees no increase in a series that begins at 1."""
        for method in METHODS:
            self.seconds.labels(method)
            for outcome in OUTCOMES:
                self.jobs.labels(method, outcome)
        for code in CODES:
            self.failures.labels(code)
        for outcome in ("posted", "failed"):
            self.webhooks.labels(outcome)


class _LoggingServer(ThreadingHTTPServer):
    """Logs a request that broke off as one record; the base class prints a traceback to standard error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.warning("a request for metrics or health broke off: %r", sys.exception())


class StatusServer:
    """``/metrics``, ``/health/live`` and ``/health/ready`` on one port; an unhealthy worker answers 503 and why."""

    def __init__(self, host: str, port: int, metrics: Metrics, health: dict[str, Callable[[], str]]) -> None:
        """Listen (port 0 picks a free one); the checks ``live`` and ``ready`` in ``health`` return a fault or ''."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/health/")
                if self.path == "/metrics":
                    self._send(200, generate_latest(metrics.registry), "text/plain; version=0.0.4; charset=utf-8")
                elif name in health:
                    wrong = health[name]()
                    self._send(503 if wrong else 200, (wrong or "ok").encode(), "text/plain; charset=utf-8")
                else:
                    self._send(404, b"not found", "text/plain")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Do not log probes and scrapes."""

        self._server = _LoggingServer((host, port), Handler)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
