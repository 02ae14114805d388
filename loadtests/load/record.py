"""Records a load: sends arrivals of a given shape to a server of its own and keeps what the server's metrics say.

``python -m veridict.loadtests.load.record SHAPE --output FILE`` writes a line per interval: the requests that ended
(judged or refused) per second, the images in flight (the mean of a look per second at ``veridict_images_under_way``,
which the autoscaler reads), and the verdicts per second. ``python -m veridict.deploy.scaling --load`` reads the first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError, ServerSettings
from veridict.deploy.local_http import open_url
from veridict.deploy.manifest import RepositoryError
from veridict.deploy.own_server import own_server
from veridict.deploy.recorded_loads import read_numbers

from ..machine import describe_machine
from ..metrics_page import Repeated, sum_series
from .arrivals import Phase, arrival_times, schedule_phases
from .cli import plan_requests
from .generator import GeneratorError, Target, measure_capacity, send_open_loop
from .payloads import sample_set, shuffled_order

#: Seconds between two looks at the metrics; the server publishes them twice as often.
_LOOK = 1.0


@dataclass(frozen=True)
class Look:
    """The metrics at one moment: seconds since the run began, verdicts and refusals so far, images in flight."""

    seconds: float
    verdicts: float
    refused: float
    in_flight: float


def read_metrics(text: str, seconds: float) -> Look:
    """Return the sums over the series of a metrics page in Prometheus's text format.

    Raises:
        ValueError: a metric is missing.
    """
    names = ("veridict_verdicts_total", "veridict_requests_refused_total", "veridict_images_under_way")
    return Look(seconds, *(sum_series(text, name) for name in names))


class Recorder(Repeated):
    """Looks at a metrics page every second."""

    def __init__(self, url: str) -> None:
        """Take the URL of the page."""
        super().__init__(_LOOK)
        self._url = url
        self.looks: list[Look] = []

    def look(self, seconds: float) -> None:
        """Read the page."""
        with open_url(self._url, timeout=10) as response:
            self.looks.append(read_metrics(response.read().decode(), seconds))


def summarise(looks: Sequence[Look], length: float, count: int) -> list[tuple[float, float, float]]:
    """Return (requests ended/s, mean images in flight, verdicts/s) of ``count`` intervals of ``length`` seconds.

    Raises:
        ValueError: an interval was not looked at twice, so that it has no rate.
    """
    rows = []
    for number in range(count):
        inside = [look for look in looks if number * length <= look.seconds < (number + 1) * length]
        if len(inside) < 2:
            raise ValueError(f"the metrics page was read less than twice in the interval {number}")
        first, last = inside[0], inside[-1]
        seconds = last.seconds - first.seconds
        judged = (last.verdicts - first.verdicts) / seconds
        ended = judged + (last.refused - first.refused) / seconds
        rows.append((ended, sum(look.in_flight for look in inside) / len(inside), judged))
    return rows


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m veridict.loadtests.load.record", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("shape", type=Path, help="arrival rates, one per line, in any unit: the highest is --peak")
    parser.add_argument("--output", type=Path, required=True, help="file for what was recorded")
    parser.add_argument(
        "--peak",
        type=option_types.real(0.0, 10.0, above=True),
        default=0.9,
        help="highest rate, as a share of the capacity (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=option_types.real(4.0), default=10.0, help="length of each interval (default: %(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Record; return 0, or 1 with the reason on standard error."""
    arguments = build_parser().parse_args(argv)
    try:
        text = record(read_numbers(arguments.shape), arguments.peak, arguments.seconds)
        arguments.output.write_text(text)
    except (LaunchError, RepositoryError, GeneratorError, OSError, ValueError) as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    return 0


def record(shape: Sequence[float], peak: float, seconds: float) -> str:
    """Start a server, measure its capacity, send Poisson arrivals of the shape, and return the recorded lines.

    Raises:
        LaunchError, RepositoryError: the server cannot be started.
        GeneratorError: the load generator failed.
        OSError, ValueError: the metrics cannot be read.
    """
    images = sample_set("photo")
    with own_server(ServerSettings(grpc_port=0, http_port=0, metrics_port=0)) as server:
        target = Target(server.url, deadline=10.0)
        capacity = measure_capacity(target, images, shuffled_order(4096, len(images), seed=1), 32, 10.0)
        shares = [value * peak / max(shape) for value in shape]
        phases = schedule_phases([Phase(str(n), seconds, share, share) for n, share in enumerate(shares)], capacity)
        requests = plan_requests(arrival_times(phases, poisson=True), len(images))
        print(f"capacity {capacity:.1f}/s; {len(requests)} requests ...", file=sys.stderr, flush=True)
        with Recorder(server.metrics_url) as recorder:
            send_open_loop(target, images, requests, phases[-1].ends)
    rows = summarise(recorder.looks, seconds, len(shape))
    head = (
        f"# Recorded by veridict.loadtests.load.record; {describe_machine()}; capacity {capacity:.1f} requests/s.\n"
        f"# Each line is {seconds:g} s: requests ended per second, mean images in flight, verdicts per second.\n"
    )
    return head + "".join(f"{ended:.2f} {flying:.2f} {judged:.2f}\n" for ended, flying, judged in rows)


if __name__ == "__main__":
    raise SystemExit(main())
