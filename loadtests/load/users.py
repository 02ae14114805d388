"""Locust users that send images through the Veridict client; runs in a process of its own.

Importing locust patches the standard library for gevent, so only the load generator's process imports this module:
``python -m veridict.loadtests.load.users PLAN`` runs a :class:`~veridict.loadtests.load.generator.Plan`.
"""

from __future__ import annotations

from locust import User, constant, task  # first: it patches sockets, threads and time before others import them
from locust.env import Environment

# isort: split
import hashlib
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import gevent
import gevent.event
import gevent.pool
import grpc.experimental.gevent

from veridict.client import (
    ClientConfig,
    DeadlineError,
    DetectorClient,
    InvalidImageError,
    OverloadedError,
    VeridictError,
)

from .generator import LocustStatistics, Plan, read_plan, write_statistics
from .outcomes import Outcome, Request, to_json_line
from .payloads import with_comment

#: Seconds between two progress reports.
_REPORT_INTERVAL = 10.0


class LoadGenerator:
    """One run: the client, the clock, and the file to which every request's outcome is written exactly once."""

    def __init__(self, plan: Plan, environment: Any) -> None:
        """Open the client and the outcome file; the client makes one attempt, so that each request is sent once."""
        self.plan = plan
        self.environment = environment
        self.client = DetectorClient(config=ClientConfig(attempts=1, **vars(plan.target)))
        self.outcomes: list[Outcome] = []
        # Line-buffered: the outcomes so far are kept even if this process is killed.
        self.outcome_file = plan.outcome_file.open("w", buffering=1)
        self.sent = 0
        self.done = gevent.event.Event()
        self.started = time.perf_counter()

    def now(self) -> float:
        """Return the seconds since the run started."""
        return time.perf_counter() - self.started

    def send(self, request: Request) -> None:
        """Send one request, write its outcome and report it to locust."""
        sample = self.plan.samples[request.sample]
        data = with_comment(sample.data, request.id)
        sent = self.now()
        self.sent += 1
        kind, code = "answered", ""
        failure: VeridictError | None = None
        try:
            verdict = self.client.detect(data, request_id=request.id)
            if verdict.request_id != request.id or verdict.image.sha256 != hashlib.sha256(data).hexdigest():
                kind = "mismatched"
        except InvalidImageError as error:
            kind, code, failure = "refused", error.code, error
        except OverloadedError as error:
            kind, code, failure = "rejected", error.code, error
        except DeadlineError as error:
            kind, code, failure = "deadline", error.code, error
        except VeridictError as error:
            kind, code, failure = "error", f"{error.code}: {error.message}", error
        outcome = Outcome(request.id, request.due, sent, self.now(), kind, request.sample, code)
        self.outcomes.append(outcome)
        self.outcome_file.write(to_json_line(outcome))
        expected = "refused" if sample.expected_codes else "answered"
        self.environment.events.request.fire(
            request_type="grpc",
            name=sample.name,
            response_time=1e3 * outcome.latency,
            response_length=0,
            exception=None if kind == expected else failure or RuntimeError(kind),
            context={},
        )

    def report(self) -> None:
        """Print the progress of the run every ten seconds."""
        while True:
            gevent.sleep(_REPORT_INTERVAL)
            counts = Counter(o.kind for o in self.outcomes)
            parts = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            in_flight = self.sent - len(self.outcomes)
            print(
                f"  {self.now():5.0f} s: {self.sent} sent, {parts}, {in_flight} in flight", file=sys.stderr, flush=True
            )


class ClosedLoopUser(User):  # type: ignore[misc, unused-ignore]
    """Sends the next request when the last one is answered; many such users find the server's capacity."""

    abstract = True
    wait_time = constant(0)
    generator: LoadGenerator

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def send_next(self) -> None:
        """Send the next request of the plan, from the first again after the last; end the run when its time is over."""
        run = self.generator
        if run.now() >= run.plan.seconds:
            if run.sent == len(run.outcomes):
                run.done.set()
            gevent.sleep(0.05)
            return
        number = run.sent
        request = run.plan.requests[number % len(run.plan.requests)]
        run.send(Request(f"{request.id}-{number}", run.now(), request.sample))


class OpenLoopUser(User):  # type: ignore[misc, unused-ignore]
    """Sends every request when it is due, whether or not earlier ones are answered; one user sends the whole load."""

    abstract = True
    wait_time = constant(0)
    generator: LoadGenerator

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def send_on_schedule(self) -> None:
        """Start a greenlet for each request when it is due, then wait until all have ended."""
        run = self.generator
        greenlets = gevent.pool.Group()
        for request in run.plan.requests:
            early = request.due - run.now()
            gevent.sleep(max(0.0, early))  # sleeps even when late, so that other greenlets can read answers
            greenlets.start(gevent.Greenlet(run.send, request))
        greenlets.join(timeout=run.plan.target.deadline + 10.0)
        run.done.set()
        gevent.sleep(3600)


def run_plan(plan: Plan) -> None:
    """Run a plan to its end; write the outcomes and locust's statistics."""
    # Must come before the first channel: gRPC then uses greenlets, and one of them waits for the answers to all calls.
    grpc.experimental.gevent.init_gevent()
    base = OpenLoopUser if plan.users == 0 else ClosedLoopUser
    environment = Environment(user_classes=[], catch_exceptions=False)
    run = LoadGenerator(plan, environment)
    environment.user_classes = [type(base.__name__, (base,), {"generator": run})]
    runner = environment.create_local_runner()
    run.client.ready()  # connects before the clock starts
    run.started = time.perf_counter()
    progress = gevent.spawn(run.report)
    runner.start(plan.users or 1, spawn_rate=plan.users or 1)
    try:
        run.done.wait(timeout=plan.seconds + plan.target.deadline + 30.0)
    finally:
        progress.kill()
        entries = [*environment.stats.entries.values(), environment.stats.total]
        write_statistics(plan.statistics_file, [_to_statistics(entry) for entry in entries])
        run.outcome_file.close()
        runner.quit()


def _to_statistics(entry: Any) -> LocustStatistics:
    return LocustStatistics(
        name=entry.name,
        requests=entry.num_requests,
        failures=entry.num_failures,
        median_ms=float(entry.median_response_time or 0),
        p99_ms=float(entry.get_response_time_percentile(0.99) or 0),
        requests_per_second=entry.total_rps,
    )


def main(path: Path) -> NoReturn:
    """Run the plan in a file and end this process."""
    status = 1
    try:
        run_plan(read_plan(path))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # A normal exit may hang: gRPC closes its channel after gevent's threads are gone, and waits for them.
        os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
