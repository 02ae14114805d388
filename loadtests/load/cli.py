"""``veridict loadtest PROFILE``: open-loop load through our own client, and whether the thresholds held."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from veridict.client import ClientConfig, DetectorClient, Tls
from veridict.client.cli_detect import find_images
from veridict.deploy.launcher import LaunchError
from veridict.deploy.own_server import own_server
from veridict.deploy.repository import RepositoryError
from veridict.deploy.serving.metrics_buffer import PUBLISHED_EVERY

from .arrivals import PROFILES, Profile, Span, lay_out, schedule
from .generator import GeneratorError, Tally, Target, measure_capacity, send_open_loop
from .outcomes import Account, Outcome, Request, account, figures
from .payloads import Sample, deal, sample_set
from .thresholds import DEFAULT_FILE, Check, Threshold, check, format_checks, load_thresholds

_VERDICTS = re.compile(r"^veridict_verdicts_total\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """A finished load test: what was asked for, what became of it, and what it was held to."""

    profile: str
    machine: str
    capacity: float
    capacity_measured: bool
    spans: list[Span]
    outcomes: list[Outcome]
    books: Account
    figures: dict[str, float | None]
    checks: list[Check]
    tallies: list[Tally]

    @property
    def passed(self) -> bool:
        """Return whether every threshold held."""
        return all(c.passed for c in self.checks)


def known_figures() -> list[str]:
    """Return the names of all figures."""
    span = Span("", 0.0, 1.0, 1.0, 1.0, True)
    return list(figures([], [], [span], [], 1.0))


def count_verdicts(metrics_url: str) -> int:
    """Return how many verdicts the server has counted since it started.

    Raises:
        OSError: the endpoint does not answer.
        ValueError: it is not an http(s) URL, or does not know the counter.
    """
    if not metrics_url.startswith(("http://", "https://")):
        raise ValueError(f"the metrics URL must begin with http:// or https://, not {metrics_url!r}")
    time.sleep(2 * PUBLISHED_EVERY)  # the server publishes its counts now and then
    with urllib.request.urlopen(metrics_url, timeout=10) as response:
        found = _VERDICTS.findall(response.read().decode())
    if not found:
        raise ValueError(f"{metrics_url} does not know veridict_verdicts_total")
    return int(sum(float(value) for value in found))


def plan_requests(times: Sequence[float], samples: int) -> list[Request]:
    """Return a request per arrival time, with ids that no other run has."""
    run = uuid.uuid4().hex[:12]
    order = deal(len(times), samples)
    return [Request(f"load-{run}-{n}", due, sample) for n, (due, sample) in enumerate(zip(times, order, strict=True))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    summaries = "; ".join(f"{name}: {profile.summary}" for name, profile in PROFILES.items())
    parser.add_argument("profile", choices=tuple(PROFILES), help=summaries.replace("%", "%%"))
    parser.add_argument("--url", default="", help="host:port of a gRPC endpoint (default: starts a server of its own)")
    parser.add_argument("--metrics-url", default="", help="that server's metrics, to count its verdicts as well")
    parser.add_argument("--tls", action="store_true", help="connect with TLS")
    parser.add_argument("--tls-root", type=Path, help="PEM file of the certificates to trust (implies --tls)")
    parser.add_argument("--tls-certificate", type=Path, help="PEM certificate of this client, for mutual TLS")
    parser.add_argument("--tls-key", type=Path, help="PEM key of this client, for mutual TLS")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds for one request (default: %(default)s)")
    parser.add_argument(
        "--capacity", type=float, help="requests per second (default: measured first, in a closed loop)"
    )
    parser.add_argument(
        "--capacity-seconds", type=float, default=10.0, help="how long to measure it (default: %(default)s)"
    )
    parser.add_argument(
        "--throttle",
        type=float,
        default=ClientConfig.throttle,
        help="requests sent per request taken while the server refuses; 0 = all (default: the client's, %(default)s)",
    )
    parser.add_argument("--users", type=int, default=32, help="users of the closed loop (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times the duration of every phase (default: %(default)s)"
    )
    parser.add_argument("--poisson", action="store_true", help="Poisson arrivals instead of evenly spaced ones")
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="PATH", help="send these files instead of the profile's"
    )
    parser.add_argument("--thresholds", type=Path, default=DEFAULT_FILE, help="TOML file (default: the checked-in one)")
    parser.add_argument("--report", type=Path, help="write an HTML report")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def _target(arguments: argparse.Namespace) -> Target:
    """Return the target of the options; its URL is empty for a server of our own."""
    tls = None
    if arguments.tls or arguments.tls_root or arguments.tls_certificate:
        tls = Tls(arguments.tls_root, arguments.tls_certificate, arguments.tls_key)
    if tls is not None and not arguments.url:
        raise ValueError("TLS options need --url")
    ClientConfig(arguments.url or ClientConfig.url, deadline=arguments.deadline, throttle=arguments.throttle)
    return Target(arguments.url, arguments.deadline, tls, arguments.throttle)


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name in ("capacity", "capacity_seconds", "scale", "users"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1e6:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, not {value:g}")


def _samples(arguments: argparse.Namespace, profile: Profile) -> list[Sample]:
    if not arguments.images:
        return sample_set(profile.images)
    return [Sample(Path(p).name, Path(p).read_bytes()) for p in find_images([str(p) for p in arguments.images])]


@contextlib.contextmanager
def _server(target: Target, metrics_url: str) -> Iterator[tuple[Target, str]]:
    """Yield the target and its metrics URL: the given ones, or those of a server that runs inside the ``with``."""
    if target.url:
        with DetectorClient(config=ClientConfig(target.url, tls=target.tls)) as client:
            if not client.ready(5.0):
                raise LaunchError(f"no detector at {target.url}: start one with veridict serve")
        yield target, metrics_url
        return
    _say("starting tritonserver on free loopback ports ...")
    with own_server() as server:
        yield replace(target, url=server.url), server.metrics_url


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def carry_out(arguments: argparse.Namespace, samples: list[Sample], thresholds: list[Threshold], target: Target) -> Run:
    """Measure the capacity where it was not given, run the profile and hold its figures to the thresholds.

    Raises:
        LaunchError: there is no server.
        GeneratorError: the load generator failed.
        OSError, ValueError: the server's metrics cannot be read.
    """
    from ..machine import describe_machine

    profile = PROFILES[arguments.profile]
    with _server(target, arguments.metrics_url) as (live, metrics_url):
        capacity = arguments.capacity
        if capacity is None:
            _say(f"measuring the capacity with {arguments.users} users in a closed loop ...")
            order = deal(4096, len(samples), seed=1)
            capacity = measure_capacity(live, samples, order, arguments.users, arguments.capacity_seconds)
        spans = lay_out(profile.phases, capacity, arguments.scale)
        requests = plan_requests(schedule(spans, arguments.poisson), len(samples))
        _say(f"capacity {capacity:.1f}/s; {arguments.profile}: {len(requests)} requests in {spans[-1].ends:.0f} s ...")
        before = count_verdicts(metrics_url) if metrics_url else 0
        outcomes, tallies = send_open_loop(live, samples, requests, spans[-1].ends)
        judged = count_verdicts(metrics_url) - before if metrics_url else None
    found = figures(requests, outcomes, spans, [s.codes for s in samples], capacity, judged)
    return Run(
        profile=arguments.profile,
        machine=describe_machine(),
        capacity=capacity,
        capacity_measured=arguments.capacity is None,
        spans=spans,
        outcomes=outcomes,
        books=account(requests, outcomes),
        figures=found,
        checks=check(thresholds, found),
        tallies=tallies,
    )


def format_run(run: Run) -> str:
    """Return the run as text: what was sent, the books, the figures and the thresholds."""
    how = "measured" if run.capacity_measured else "given"
    counts = ", ".join(f"{count} {kind}" for kind, count in run.books.counts.items() if count)
    books = f"{run.books.sent} sent: {counts}; {len(run.books.lost)} lost, {len(run.books.duplicated)} twice"
    if held_back := run.figures["held_back"]:
        books += f"; of the rejected {held_back:.0f} were held back by the client"
    parts = (
        f"goodput {run.figures['goodput']:.1f}/s",
        *(f"{q} {run.figures[q + '_ms']:.0f} ms" for q in ("p50", "p95", "p99") if run.figures[q + "_ms"] is not None),
    )
    verdict = "PASS" if run.passed else "FAIL"
    return (
        f"`veridict loadtest {run.profile}` on {run.machine}; capacity {run.capacity:.1f}/s ({how})\n\n"
        f"{books}\nmeasured phase: {', '.join(parts)}\n\n{format_checks(run.checks)}\n\n{verdict}"
    )


def to_document(run: Run) -> dict[str, object]:
    """Return the run as one JSON-able document, without the single outcomes."""
    return {
        "profile": run.profile,
        "machine": run.machine,
        "capacity": run.capacity,
        "capacity_measured": run.capacity_measured,
        "phases": [asdict(s) for s in run.spans],
        "books": asdict(run.books),
        "figures": run.figures,
        "thresholds": [
            {"figure": c.threshold.figure, "bound": str(c.threshold), "measured": c.measured, "passed": c.passed}
            for c in run.checks
        ],
        "locust": [asdict(t) for t in run.tallies],
        "passed": run.passed,
    }


def run(arguments: argparse.Namespace) -> int:
    """Run the profile; return 0 when every threshold held, 1 when one did not or nothing ran, 2 on usage."""
    try:
        _check_numbers(arguments)
        target = _target(arguments)
        thresholds = load_thresholds(arguments.thresholds, arguments.profile, known_figures())
        samples = _samples(arguments, PROFILES[arguments.profile])
        if arguments.report is not None:
            arguments.report.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"veridict loadtest: {error}", file=sys.stderr)
        return 2
    try:
        done = carry_out(arguments, samples, thresholds, target)
    except (LaunchError, RepositoryError, GeneratorError, OSError, ValueError) as error:
        print(f"veridict loadtest: {error}", file=sys.stderr)
        return 1
    print(json.dumps(to_document(done), indent=2) if arguments.json else format_run(done))
    if arguments.report is not None:
        from .report import render_report

        arguments.report.write_text(render_report(done))
        _say(f"report: {arguments.report}")
    return 0 if done.passed else 1
