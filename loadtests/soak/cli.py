"""``veridict soak``: loads a server of its own at a share of its capacity for long, and holds it to thresholds."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from veridict.client.cli_detect import find_images
from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError, ServerSettings
from veridict.deploy.manifest import RepositoryError, default_repository
from veridict.deploy.own_server import own_server

from ..load.arrivals import Phase, ScheduledPhase, arrival_times, schedule_phases
from ..load.cli import plan_requests
from ..load.generator import GeneratorError, Target, measure_capacity, send_open_loop
from ..load.outcomes import compute_figures, reconcile
from ..load.payloads import Sample as Image
from ..load.payloads import sample_set, shuffled_order
from ..load.thresholds import Check, Threshold, check_thresholds, load_thresholds
from ..machine import describe_machine
from .sampling import Sample, Sampler
from .trends import Window, growth_figures, latency_windows

DEFAULT_THRESHOLDS = Path(__file__).parent / "thresholds.toml"
#: From so many measured seconds on the thresholds of a full run hold.
FULL = 1200.0
#: Of the figures of a load test, those that a soak run reports.
_KEPT = ("p50_ms", "p99_ms", "goodput", "answered_share", "lost", "duplicated", "mismatched", "errors", "deadlines")


@dataclass(frozen=True)
class SoakResult:
    """A finished run: its options, the load, the samples and latencies of the measured time, and the checks."""

    command: str
    machine: str
    capacity: float
    rate: float
    warm_up: float
    seconds: float
    sent: int
    counts: dict[str, int]
    samples: list[Sample]
    windows: list[Window]
    figures: dict[str, float | None]
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Return whether every threshold held."""
        return all(check.passed for check in self.checks)

    @property
    def measured(self) -> list[Sample]:
        """Return the samples of the measured time."""
        return [s for s in self.samples if self.warm_up <= s.seconds <= self.warm_up + self.seconds]


def figure_names() -> list[str]:
    """Return the names of all figures."""
    return [*_KEPT, *growth_figures([], [], 1.0, 1.0)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--seconds", type=option_types.real(20.0), default=1800.0, help="measured time (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up",
        type=option_types.real(1.0),
        help="seconds at the same rate before that (default: a tenth of it, at least 15, at most 120)",
    )
    parser.add_argument(
        "--fraction",
        type=option_types.real(0.0, 1.0, above=True),
        default=0.8,
        help="share of the capacity (default: %(default)s)",
    )
    parser.add_argument(
        "--capacity",
        type=option_types.real(0.0, 1e6, above=True),
        help="requests per second (default: measured first, in a closed loop of 10 s)",
    )
    parser.add_argument(
        "--interval", type=option_types.real(0.2, 600.0), help="seconds between samples (default: a 360th, at least 1)"
    )
    parser.add_argument("--repository", type=Path, default=default_repository(), help="model repository to serve")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="as of veridict serve")
    parser.add_argument("--images", type=Path, nargs="+", metavar="PATH", help="files or folders to send")
    parser.add_argument(
        "--thresholds", type=Path, default=DEFAULT_THRESHOLDS, help="TOML file of thresholds (default: the bundled one)"
    )
    parser.add_argument("--plot", type=Path, help="PNG file for a plot")
    parser.add_argument("--markdown", type=Path, help="Markdown file for the table, with the command and the machine")
    parser.add_argument("--json", type=Path, help="file for everything measured")


def _images(arguments: argparse.Namespace) -> list[Image]:
    if not arguments.images:
        return sample_set("photo")
    return [Image(Path(p).name, Path(p).read_bytes()) for p in find_images([str(p) for p in arguments.images])]


def run_soak(arguments: argparse.Namespace, images: list[Image], thresholds: list[Threshold]) -> SoakResult:
    """Start a server, measure its capacity if none is given, load it, and check the figures.

    Raises:
        LaunchError, RepositoryError: the server cannot be started.
        GeneratorError: the load generator failed.
    """
    warm_up = arguments.warm_up or min(120.0, max(15.0, arguments.seconds / 10))
    interval = arguments.interval or max(1.0, arguments.seconds / 360)
    settings = ServerSettings(arguments.repository, arguments.profile, grpc_port=0, http_port=0, metrics_port=0)
    print("starting tritonserver on free loopback ports ...", file=sys.stderr, flush=True)
    with own_server(settings) as server:
        target = Target(server.url, deadline=10.0)
        capacity = arguments.capacity
        if capacity is None:
            capacity = measure_capacity(target, images, shuffled_order(4096, len(images), seed=1), 32, 10.0)
        share = arguments.fraction
        plan = (Phase("warm-up", warm_up, share, share), Phase("soak", arguments.seconds, share, share, True))
        phases = schedule_phases(plan, capacity)
        requests = plan_requests(arrival_times(phases, poisson=True), len(images))
        rate = capacity * share
        print(f"capacity {capacity:.1f}/s; {len(requests)} requests at {rate:.1f}/s ...", file=sys.stderr, flush=True)
        with Sampler(server.pid, interval) as sampler:
            outcomes, _ = send_open_loop(target, images, requests, phases[-1].ends)
    measured: ScheduledPhase = phases[-1]
    windows = latency_windows(outcomes, measured.begins, measured.ends)
    inside = [s for s in sampler.samples if measured.begins <= s.seconds <= measured.ends]
    load = compute_figures(requests, outcomes, phases, [image.expected_codes for image in images], capacity)
    figures = {name: load[name] for name in _KEPT} | growth_figures(inside, windows, rate, arguments.seconds)
    return SoakResult(
        command=_command(arguments),
        machine=describe_machine(),
        capacity=capacity,
        rate=rate,
        warm_up=warm_up,
        seconds=arguments.seconds,
        sent=len(requests),
        counts={kind: count for kind, count in reconcile(requests, outcomes).counts.items() if count},
        samples=sampler.samples,
        windows=windows,
        figures=figures,
        checks=check_thresholds(thresholds, figures),
    )


def _command(arguments: argparse.Namespace) -> str:
    given = [f"--seconds {arguments.seconds:g}"]
    if arguments.warm_up is not None:
        given.append(f"--warm-up {arguments.warm_up:g}")
    if arguments.capacity is not None:
        given.append(f"--capacity {arguments.capacity:g}")
    if arguments.fraction != 0.8:
        given.append(f"--fraction {arguments.fraction:g}")
    return f"veridict soak {' '.join(given)}"


def run(arguments: argparse.Namespace) -> int:
    """Run; return 0 if every threshold held, 1 if one was missed or nothing ran, 2 for invalid options."""
    from .report import draw_plot, format_result

    profile = "full" if arguments.seconds >= FULL else "short"
    try:
        thresholds = load_thresholds(arguments.thresholds, profile, figure_names())
        images = _images(arguments)
        for path in filter(None, (arguments.plot, arguments.markdown, arguments.json)):
            path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"veridict soak: {error}", file=sys.stderr)
        return 2
    try:
        result = run_soak(arguments, images, thresholds)
    except (LaunchError, RepositoryError, GeneratorError) as error:
        print(f"veridict soak: {error}", file=sys.stderr)
        return 1
    text = format_result(result)
    print(text)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text + "\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(result), indent=1))
    if arguments.plot is not None:
        draw_plot(result, arguments.plot)
    return 0 if result.passed else 1
