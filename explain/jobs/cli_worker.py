"""``veridict worker``: computes queued explanations until it is stopped."""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from veridict.client.connection import add_connection_arguments, connection_or_exit
from veridict.deploy import option_types
from veridict.deploy.ports import AddressError, bind_problem, check_host
from veridict.deploy.serving.scheduling import yield_cores
from veridict.deploy.structured_log import hide_credentials, print_line, set_up_logging
from veridict.deploy.tracing import add_telemetry_arguments, set_up_tracing

from ..errors import ExplainError
from .duty_cycle import SHARE, DutyCycle, DutyCycleLimiter, VerdictCounter
from .settings import QueueSettings
from .stop_signals import stop_on_signals


def add_queue_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the queue and the store."""
    parser.add_argument("--redis", default="", help="Redis URL (default: $VERIDICT_REDIS_URL, else the embedded Redis)")
    parser.add_argument("--store", default="", help="folder or URL such as s3://bucket/prefix (default: in --state)")
    parser.add_argument("--state", type=Path, help="folder of the embedded Redis and of the default store")
    parser.add_argument(
        "--repository",
        type=Path,
        help="the model repository that the server serves: its networks are explained (default: $VERIDICT_REPOSITORY, "
        "else the bundled one)",
    )


def queue_settings(arguments: argparse.Namespace) -> QueueSettings:
    """Return the settings of the environment, replaced by those given on the command line."""
    settings = QueueSettings.from_environment()
    given = {
        "redis_url": arguments.redis,
        "store_url": arguments.store,
        "state": arguments.state,
        "repository": arguments.repository,
    }
    return replace(settings, **{name: value for name, value in given.items() if value})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_connection_arguments(parser, "server that scores for SHAP and LIME")
    add_queue_arguments(parser)
    parser.add_argument(
        "--lease",
        type=option_types.real(0.5, 3600.0),
        default=QueueSettings.lease,
        help="seconds after which another worker takes the job of a dead worker",
    )
    parser.add_argument(
        "--backoff",
        type=option_types.real(0.0, 3600.0),
        default=QueueSettings.backoff,
        help="seconds before the second try of a job",
    )
    parser.add_argument(
        "--grace", type=option_types.real(0.0, 3600.0), default=20.0, help="seconds a job may still run after SIGTERM"
    )
    parser.add_argument(
        "--batch",
        type=option_types.whole(1, 64),
        default=8,
        help="crops per request to the server (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=option_types.whole(1, 1024), default=1, help="torch threads (default: %(default)s)"
    )
    parser.add_argument(
        "--nice",
        type=option_types.whole(0, 19),
        help="niceness to add; 0 for normal priority (default: run only on idle cores)",
    )
    parser.add_argument(
        "--share",
        type=option_types.real(0.01, 1.0),
        default=SHARE,
        help="share of the time for which a job computes while the server at --url gives verdicts; the pauses do not "
        "count as the job's seconds; 1 never pauses (default: %(default)s)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of metrics and health (default: %(default)s)")
    parser.add_argument(
        "--port", type=option_types.port, default=9464, help="port of metrics and health; 0 picks a free one"
    )
    add_telemetry_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Work until SIGTERM or Ctrl-C; return 0, 1 with the reason on standard error, or 2 on usage errors."""
    server = connection_or_exit(arguments)
    # As many threads per library as --threads, unless the environment says otherwise: more would slow verdicts down.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(arguments.threads))
    try:
        from ..models import Models, set_threads
        from .embedded_redis import EmbeddedRedis
        from .queue import JobQueue
        from .store import Store
        from .telemetry import Metrics, StatusServer
        from .worker import Worker
    except ImportError as error:
        print(f"veridict worker: {error}; pip install 'veridict[explain]'", file=sys.stderr)
        return 1
    set_up_logging(arguments.log_format)
    set_threads(arguments.threads)
    embedded: EmbeddedRedis | None = None
    # This thread starts before the worker lowers its priority, so the Redis that it starts keeps the normal priority:
    # clients wait for that Redis.
    starter = ThreadPoolExecutor(1)
    try:
        check_host(arguments.host)
        set_up_tracing("veridict-worker", arguments.otlp)
        settings = replace(queue_settings(arguments), lease=arguments.lease, backoff=arguments.backoff)
        if not settings.redis_url:
            embedded = EmbeddedRedis(settings.state / "redis")
            starter.submit(embedded.ensure).result()
        consumer = f"worker-{uuid.uuid4().hex[:12]}"
        queue = JobQueue(settings, embedded.url if embedded else settings.redis_url, consumer)
        metrics = Metrics(queue)
        duty_cycle = DutyCycle(arguments.share)
        limiter = DutyCycleLimiter(duty_cycle, VerdictCounter(server), on_pause=metrics.paused_seconds.inc)
        worker = Worker(
            queue,
            Store(settings.store),
            Models(server=server, repository=settings.repository, batch=arguments.batch),
            metrics,
            limiter=limiter if arguments.share < 1 else None,
            grace=arguments.grace,
            restart_redis=(lambda: starter.submit(embedded.ensure).result()) if embedded else lambda: None,
        )
        health = {"live": worker.check_live, "ready": worker.check_ready}
        try:
            status = StatusServer(arguments.host, arguments.port, metrics, health)
        except OSError as error:
            raise AddressError(f"--port: {bind_problem(error, arguments.host, arguments.port)}") from error
    except (ExplainError, OSError, ValueError) as error:
        print_line(f"veridict worker: {error}", arguments.log_format)
        if embedded is not None:
            embedded.stop()
        return 1

    with stop_on_signals(worker.stop):
        if arguments.nice is None:
            yield_cores()
        else:
            os.nice(arguments.nice)
        print(f"ready: {consumer}, store {hide_credentials(settings.store)}, metrics {status.url}/metrics", flush=True)
        if arguments.share < 1:
            limiter.start()
        try:
            worker.run()
        finally:
            limiter.stop()
            status.stop()
            queue.close()
            if embedded is not None:
                embedded.stop()
        print_line("stopped", arguments.log_format, "INFO")
    return 0
