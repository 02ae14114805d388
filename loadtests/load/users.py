"""Locust users that send images through our own gRPC client; run as a process of its own.

Importing locust patches the standard library for gevent, so only the load generator's process imports this module:
``python -m veridict.loadtests.load.users PLAN`` carries out a :class:`~veridict.loadtests.load.generator.Plan`.
"""

from __future__ import annotations

from locust import User, constant, task  # first: it patches sockets, threads and time, which all others then use
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

from .generator import Plan, Tally, read_plan, write_tallies
from .outcomes import Outcome, Request, to_line
from .payloads import stamp

_REPORT_EVERY = 10.0


class Generator:
    """One run: the client, the clock, and the ledger that every request ends up in exactly once."""

    def __init__(self, plan: Plan, environment: Any) -> None:
        """Open the channel; attempts are limited to one, so that a request sent is a request accounted for."""
        self.plan = plan
        self.environment = environment
        self.client = DetectorClient(config=ClientConfig(attempts=1, **vars(plan.target)))
        self.outcomes: list[Outcome] = []
        # Line by line: what was answered stays known even when this process has to be killed.
        self.ledger = plan.ledger.open("w", buffering=1)
        self.sent = 0
        self.done = gevent.event.Event()
        self.started = time.perf_counter()

    def now(self) -> float:
        """Return the seconds since the run started."""
        return time.perf_counter() - self.started

    def send(self, request: Request) -> None:
        """Send one request, write its outcome down and tell locust."""
        sample = self.plan.samples[request.sample]
        data = stamp(sample.data, request.id)
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
        self.ledger.write(to_line(outcome))
        wanted = "refused" if sample.codes else "answered"
        self.environment.events.request.fire(
            request_type="grpc",
            name=sample.name,
            response_time=1e3 * outcome.latency,
            response_length=0,
            exception=None if kind == wanted else failure or RuntimeError(kind),
            context={},
        )

    def report(self) -> None:
        """Print how the run is going, now and then."""
        while True:
            gevent.sleep(_REPORT_EVERY)
            counts = Counter(o.kind for o in self.outcomes)
            parts = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            waiting = self.sent - len(self.outcomes)
            print(f"  {self.now():5.0f} s: {self.sent} sent, {parts}, {waiting} under way", file=sys.stderr, flush=True)


class ClosedLoopUser(User):  # type: ignore[misc, unused-ignore]
    """Sends the next request when the last one is answered: finds the capacity, and can never overload a server."""

    abstract = True
    wait_time = constant(0)
    generator: Generator

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def send_next(self) -> None:
        """Take the next request of the plan that is still due; end the run when its time is over."""
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
    """Sends every request when it is due, whatever became of the ones before it; one such user is the whole crowd."""

    abstract = True
    wait_time = constant(0)
    generator: Generator

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def send_on_schedule(self) -> None:
        """Start a greenlet per request at its time, then wait until all have ended."""
        run = self.generator
        crowd = gevent.pool.Group()
        for request in run.plan.requests:
            early = request.due - run.now()
            gevent.sleep(max(0.0, early))  # also when late: answers must get their turn
            crowd.start(gevent.Greenlet(run.send, request))
        crowd.join(timeout=run.plan.target.deadline + 10.0)
        run.done.set()
        gevent.sleep(3600)


def carry_out(plan: Plan) -> None:
    """Run a plan to its end and write its ledger and locust's statistics."""
    # Before the first channel: gRPC's threads become greenlets, and all calls share one that waits for their answers.
    grpc.experimental.gevent.init_gevent()
    base = OpenLoopUser if plan.users == 0 else ClosedLoopUser
    environment = Environment(user_classes=[], catch_exceptions=False)
    run = Generator(plan, environment)
    environment.user_classes = [type(base.__name__, (base,), {"generator": run})]
    runner = environment.create_local_runner()
    run.client.ready()  # connected before the clock starts
    run.started = time.perf_counter()
    progress = gevent.spawn(run.report)
    runner.start(plan.users or 1, spawn_rate=plan.users or 1)
    try:
        run.done.wait(timeout=plan.seconds + plan.target.deadline + 30.0)
    finally:
        progress.kill()
        entries = [*environment.stats.entries.values(), environment.stats.total]
        write_tallies(plan.tallies, [_tally(entry) for entry in entries])
        run.ledger.close()
        runner.quit()


def _tally(entry: Any) -> Tally:
    return Tally(
        name=entry.name,
        requests=entry.num_requests,
        failures=entry.num_failures,
        median_ms=float(entry.median_response_time or 0),
        p99_ms=float(entry.get_response_time_percentile(0.99) or 0),
        requests_per_second=entry.total_rps,
    )


def main(path: Path) -> NoReturn:
    """Carry out the plan in a file and end this process."""
    status = 1
    try:
        carry_out(read_plan(path))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # At a normal exit gRPC closes its channel with gevent's threads already gone, and may wait for them forever.
        os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
