"""``veridict loadtest PROFILE``: sends open-loop load through the client and checks the figures against thresholds."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from veridict.client import ClientConfig, DetectorClient
from veridict.client.cli_detect import find_images
from veridict.client.connection import add_tls_arguments, read_tls
from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError
from veridict.deploy.local_http import open_url
from veridict.deploy.manifest import RepositoryError
from veridict.deploy.own_server import own_server
from veridict.deploy.serving.metrics_buffer import PUBLISHED_EVERY

from ..metrics_page import sum_series
from .arrivals import PROFILES, Profile, arrival_times, schedule_phases
from .generator import GeneratorError, Target, measure_capacity, send_open_loop
from .outcomes import Request, compute_figures, figure_names, reconcile
from .payloads import Sample, sample_set, shuffled_order
from .result import LoadTestResult, format_result, to_document
from .thresholds import DEFAULT_FILE, Threshold, check_thresholds, load_thresholds


def count_verdicts(metrics_url: str) -> int:
    """Return the number of verdicts that the server has counted since it started.

    Raises:
        OSError: the endpoint does not answer.
        ValueError: it is not an http(s) URL, or the counter is missing.
    """
    if not metrics_url.startswith(("http://", "https://")):
        raise ValueError(f"the metrics URL must begin with http:// or https://, not {metrics_url!r}")
    time.sleep(2 * PUBLISHED_EVERY)  # the server publishes its counters at this interval
    with open_url(metrics_url, timeout=10) as response:
        text = response.read().decode()
    try:
        return int(sum_series(text, "veridict_verdicts_total"))
    except ValueError:
        raise ValueError(f"{metrics_url} has no counter veridict_verdicts_total") from None


def plan_requests(times: Sequence[float], samples: int) -> list[Request]:
    """Return a request per arrival time, with ids that no other run uses."""
    run = uuid.uuid4().hex[:12]
    order = shuffled_order(len(times), samples)
    return [Request(f"load-{run}-{n}", due, sample) for n, (due, sample) in enumerate(zip(times, order, strict=True))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    summaries = "; ".join(f"{name}: {profile.summary}" for name, profile in PROFILES.items())
    parser.add_argument("profile", choices=tuple(PROFILES), help=summaries.replace("%", "%%"))
    parser.add_argument("--url", default="", help="host:port of a gRPC endpoint (default: starts a server of its own)")
    parser.add_argument("--metrics-url", default="", help="metrics endpoint of --url, to check its count of verdicts")
    add_tls_arguments(parser)
    parser.add_argument(
        "--deadline", type=option_types.seconds, default=5.0, help="seconds for one request (default: %(default)s)"
    )
    parser.add_argument(
        "--capacity",
        type=option_types.real(0.0, 1e6, above=True),
        help="requests per second (default: measured first, in a closed loop)",
    )
    parser.add_argument(
        "--capacity-seconds",
        type=option_types.seconds,
        default=10.0,
        help="seconds of the capacity measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--throttle",
        type=option_types.real(0.0, 1e6),
        default=ClientConfig.throttle,
        help="client throttle: requests sent per request accepted while the server rejects; 0 sends all "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--users",
        type=option_types.whole(1, 10000),
        default=32,
        help="users of the capacity measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=option_types.real(0.0, 1e6, above=True),
        default=1.0,
        help="factor on the duration of every phase (default: %(default)s)",
    )
    parser.add_argument("--poisson", action="store_true", help="Poisson arrivals instead of evenly spaced ones")
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="PATH", help="files or folders to send instead of the profile's files"
    )
    parser.add_argument(
        "--thresholds", type=Path, default=DEFAULT_FILE, help="TOML file of thresholds (default: the bundled one)"
    )
    parser.add_argument("--report", type=Path, help="file for an HTML report")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def _read_target(arguments: argparse.Namespace) -> Target:
    """Return the target that the options name; its URL is empty when the command starts its own server."""
    tls = read_tls(arguments)
    if tls is not None and not arguments.url:
        raise ValueError("TLS options need --url")
    ClientConfig(arguments.url or ClientConfig.url, deadline=arguments.deadline, throttle=arguments.throttle)
    return Target(arguments.url, arguments.deadline, tls, arguments.throttle)


def _read_samples(arguments: argparse.Namespace, profile: Profile) -> list[Sample]:
    if not arguments.images:
        return sample_set(profile.samples)
    return [Sample(Path(p).name, Path(p).read_bytes()) for p in find_images([str(p) for p in arguments.images])]


@contextlib.contextmanager
def _running_server(target: Target, metrics_url: str) -> Iterator[tuple[Target, str]]:
    """Yield the target and its metrics URL; without a URL, those of a server that runs inside the ``with`` block."""
    if target.url:
        with DetectorClient(config=ClientConfig(target.url, tls=target.tls)) as client:
            if not client.ready(5.0):
                raise LaunchError(f"no detector at {target.url}: start one with veridict serve")
        yield target, metrics_url
        return
    _log("starting tritonserver on free loopback ports ...")
    with own_server() as server:
        yield replace(target, url=server.url), server.metrics_url


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_load_test(
    arguments: argparse.Namespace, samples: list[Sample], thresholds: list[Threshold], target: Target
) -> LoadTestResult:
    """Measure the capacity if it was not given, run the profile and check its figures against the thresholds.

    Raises:
        LaunchError: there is no server.
        GeneratorError: the load generator failed.
        OSError, ValueError: the server's metrics cannot be read.
    """
    from ..machine import describe_machine

    profile = PROFILES[arguments.profile]
    with _running_server(target, arguments.metrics_url) as (server, metrics_url):
        capacity = arguments.capacity
        if capacity is None:
            _log(f"measuring the capacity with {arguments.users} users in a closed loop ...")
            order = shuffled_order(4096, len(samples), seed=1)
            capacity = measure_capacity(server, samples, order, arguments.users, arguments.capacity_seconds)
        phases = schedule_phases(profile.phases, capacity, arguments.scale)
        requests = plan_requests(arrival_times(phases, arguments.poisson), len(samples))
        _log(f"capacity {capacity:.1f}/s; {arguments.profile}: {len(requests)} requests in {phases[-1].ends:.0f} s ...")
        before = count_verdicts(metrics_url) if metrics_url else 0
        outcomes, statistics = send_open_loop(server, samples, requests, phases[-1].ends)
        judged = count_verdicts(metrics_url) - before if metrics_url else None
    figures = compute_figures(requests, outcomes, phases, [s.expected_codes for s in samples], capacity, judged)
    return LoadTestResult(
        profile=arguments.profile,
        machine=describe_machine(),
        capacity=capacity,
        capacity_measured=arguments.capacity is None,
        phases=phases,
        outcomes=outcomes,
        reconciliation=reconcile(requests, outcomes),
        figures=figures,
        checks=check_thresholds(thresholds, figures),
        locust_statistics=statistics,
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the profile; return 0 if every threshold held, 1 if one was missed or nothing ran, 2 for invalid options."""
    try:
        target = _read_target(arguments)
        thresholds = load_thresholds(arguments.thresholds, arguments.profile, figure_names())
        samples = _read_samples(arguments, PROFILES[arguments.profile])
        if arguments.report is not None:
            arguments.report.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"veridict loadtest: {error}", file=sys.stderr)
        return 2
    try:
        result = run_load_test(arguments, samples, thresholds, target)
    except (LaunchError, RepositoryError, GeneratorError, OSError, ValueError) as error:
        print(f"veridict loadtest: {error}", file=sys.stderr)
        return 1
    print(json.dumps(to_document(result), indent=2) if arguments.json else format_result(result))
    if arguments.report is not None:
        from .report import render_report

        arguments.report.write_text(render_report(result))
        _log(f"report: {arguments.report}")
    return 0 if result.passed else 1
