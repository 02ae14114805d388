"""What a worker tells its operators: Prometheus metrics, health and OpenTelemetry spans."""

from __future__ import annotations

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

from .queue import JobQueue

TRACER = trace.get_tracer("veridict.explain")
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)


class QueueCollector(Collector):
    """Asks Redis at every scrape how much is waiting; what cannot be asked is left out, never invented."""

    def __init__(self, queue: JobQueue) -> None:
        """Take a queue whose client may be used from the scraping thread."""
        self._queue = queue

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the queue's gauges."""
        waiting = GaugeMetricFamily("veridict_explain_queue_lag", "Jobs nobody has taken", labels=["priority"])
        running = GaugeMetricFamily("veridict_explain_in_progress", "Jobs taken, not finished", labels=["priority"])
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
    """The worker's counters, in a registry of its own."""

    def __init__(self, queue: JobQueue) -> None:
        """Register the worker's own metrics and the queue's gauges."""
        self.registry = CollectorRegistry()
        self.registry.register(QueueCollector(queue))
        self.seconds = Histogram(
            "veridict_explain_seconds", "Seconds per method", ["method"], buckets=_BUCKETS, registry=self.registry
        )
        self.jobs = Counter(
            "veridict_explain_jobs", "Deliveries by how they ended", ["method", "outcome"], registry=self.registry
        )
        self.failures = Counter(
            "veridict_explain_failures", "Failed deliveries by cause", ["cause"], registry=self.registry
        )
        self.waiting = Counter(
            "veridict_explain_waiting_seconds", "Seconds that jobs in hand waited for verdicts", registry=self.registry
        )
        self.webhooks = Counter("veridict_explain_webhooks", "Completions", ["outcome"], registry=self.registry)


class StatusServer:
    """``/metrics``, ``/health/live`` and ``/health/ready`` on one port; answers 503 with the reason when unwell."""

    def __init__(self, host: str, port: int, metrics: Metrics, health: dict[str, Callable[[], str]]) -> None:
        """Bind (port 0 picks a free one); ``health`` maps ``live`` and ``ready`` to checks returning what is wrong."""

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
                """Keep probes and scrapes out of the log."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
