"""Simulates the autoscaling of the servers: the formulas of KEDA and the HorizontalPodAutoscaler on a given load.

``python -m veridict.deploy.scaling SCALED_OBJECT --load FILE`` prints the table of ``docs/kubernetes.md``. The formulas
are those of kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale. Every 15 s:

    AverageValue: desired = ceil(total / threshold)
    Value:        desired = ceil(replicas * value / threshold)

unless the ratio to the present count is within 10% of 1. The highest of the triggers counts; then come the
stabilisation windows and the policies of ``behavior``. A server is modelled by its rate at saturation and by a measured
curve. Loads and curves are recorded from a real server by ``python -m veridict.loadtests.load.record``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SYNC = 15
#: Bands of the share of the capacity in which a recorded curve has one point each; above the last the server is full.
_BANDS = (0.15, 0.35, 0.55, 0.75, 1.0)
TOLERANCE = 0.1
#: Seconds of the average in the queries (``[1m]``).
WINDOW = 60
#: (share of the rate at saturation, seconds from admission to verdict), ascending.
Curve = tuple[tuple[float, float], ...]
#: Measured at 1, 8 and 16 images in flight on two cores, each sent when the one before was answered (closed loop;
#: loadtests/RESULTS.md: 9.6, 16.8 and 18.5 images/s; seconds = images in flight / rate, Little's law).
CURVE: Curve = ((0.0, 0.095), (0.52, 0.104), (0.91, 0.476), (1.0, 0.865))


@dataclass(frozen=True)
class Server:
    """One replica: images per second at saturation, limit of images in flight, seconds from its start until ready."""

    rate: float
    max_in_flight: float
    startup: int = 90
    curve: Curve = CURVE

    def in_flight(self, offered: float) -> float:
        """Return the images in flight at ``offered`` images/s, at most the limit."""
        share = offered / self.rate
        if share >= 1:
            return self.max_in_flight
        for (low, below), (high, above) in itertools.pairwise(self.curve):
            if share <= high:
                latency = below + (above - below) * (share - low) / (high - low)
                return min(self.max_in_flight, offered * latency)
        return self.max_in_flight


@dataclass(frozen=True)
class Rules:
    """One direction of ``behavior``: stabilisation window in seconds, and policies (type, value, period in seconds)."""

    window: int
    policies: tuple[tuple[str, int, int], ...]

    @classmethod
    def parse(cls, document: dict[str, Any], window: int) -> Rules:
        """Read ``scaleUp`` or ``scaleDown``; ``window`` is the default of Kubernetes."""
        policies = ((p["type"], int(p["value"]), int(p["periodSeconds"])) for p in document.get("policies", []))
        return cls(int(document.get("stabilizationWindowSeconds", window)), tuple(policies))


@dataclass
class Autoscaler:
    """A HorizontalPodAutoscaler as KEDA makes it. ``triggers``: name -> (metric type, threshold)."""

    lowest: int
    highest: int
    triggers: dict[str, tuple[str, float]]
    up: Rules
    down: Rules
    _wanted: deque[tuple[int, int]] = field(default_factory=deque)
    _changes: deque[tuple[int, int]] = field(default_factory=deque)

    @classmethod
    def parse(cls, scaled_object: dict[str, Any]) -> Autoscaler:
        """Read a ScaledObject; triggers without a threshold are left out."""
        spec = scaled_object["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        triggers = {
            trigger["name"]: (trigger.get("metricType", "AverageValue"), float(trigger["metadata"]["threshold"]))
            for trigger in spec["triggers"]
            if "threshold" in trigger["metadata"]
        }
        up = Rules.parse(behavior.get("scaleUp", {}), 0)
        return cls(
            spec["minReplicaCount"], spec["maxReplicaCount"], triggers, up, Rules.parse(behavior["scaleDown"], 300)
        )

    def desired(self, replicas: int, values: dict[str, float]) -> int:
        """Return the highest count that a trigger asks for; ``values`` has the query's result by name."""
        counts = []
        for name, value in values.items():
            kind, threshold = self.triggers[name]
            ratio = value / (threshold if kind == "Value" else threshold * replicas)
            counts.append(replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(round(ratio * replicas, 9)))
        return max(counts)

    def decide(self, now: int, replicas: int, values: dict[str, float]) -> int:
        """Return the new count at second ``now``."""
        wanted = self.desired(replicas, values)
        self._wanted.append((now, wanted))
        while self._wanted and self._wanted[0][0] < now - max(self.up.window, self.down.window):
            self._wanted.popleft()
        lowest = min(count for when, count in self._wanted if when >= now - self.up.window)
        highest = max(count for when, count in self._wanted if when >= now - self.down.window)
        target = max(replicas, lowest) if lowest > replicas else min(replicas, highest)
        target = self._limit(now, replicas, target)
        target = min(self.highest, max(self.lowest, target))
        if target != replicas:
            self._changes.append((now, target - replicas))
        return target

    def _limit(self, now: int, replicas: int, target: int) -> int:
        """Apply the policies: the most that one of them allows within its period."""
        rules = self.up if target > replicas else self.down
        if target == replicas or not rules.policies:
            return target
        bounds = []
        for kind, value, period in rules.policies:
            recent = sum(
                change for when, change in self._changes if when > now - period and change * (target - replicas) > 0
            )
            start = replicas - recent
            if target > replicas:
                bounds.append(start + value if kind == "Pods" else math.ceil(start * (1 + value / 100)))
            else:
                bounds.append(start - value if kind == "Pods" else int(start * (1 - value / 100)))
        return min(target, max(bounds)) if target > replicas else max(target, min(bounds))


@dataclass(frozen=True)
class Result:
    """What a simulated load gave: the replicas at every second, and the images offered and refused."""

    replicas: tuple[int, ...]
    offered: float
    refused: float

    @property
    def changes(self) -> list[int]:
        """Return the changes of the count, in order."""
        return [b - a for a, b in itertools.pairwise(self.replicas) if a != b]

    @property
    def reversals(self) -> int:
        """Return how often the direction of the changes turned; a rise and a fall of the load give one."""
        changes = self.changes
        return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(changes))


def simulate(load: Iterable[float], server: Server, autoscaler: Autoscaler) -> Result:
    """Run a load (images per second, one value per second) against servers that the autoscaler adds and removes."""
    replicas = autoscaler.lowest
    starting: deque[int] = deque()
    flights: deque[float] = deque(maxlen=WINDOW)
    verdicts: deque[float] = deque(maxlen=WINDOW)
    counts, offered, refused = [], 0.0, 0.0
    for now, arrivals in enumerate(load):
        while starting and starting[0] <= now:
            starting.popleft()
        ready = max(1, replicas - len(starting))
        answered = min(arrivals, ready * server.rate)
        flights.append(ready * server.in_flight(arrivals / ready))
        verdicts.append(answered)
        offered, refused = offered + arrivals, refused + arrivals - answered
        if now % SYNC == 0 and now >= WINDOW:
            flight = sum(flights) / len(flights)
            values = {
                "images-under-way": flight,
                "seconds-under-way": flight / max(1.0, sum(verdicts) / len(verdicts)),
            }
            target = autoscaler.decide(now, replicas, values)
            starting.extend([now + server.startup] * max(0, target - replicas))
            for _ in range(min(len(starting), max(0, replicas - target))):
                starting.pop()  # pods that are not ready go first
            replicas = target
        counts.append(replicas)
    return Result(tuple(counts), offered, refused)


def read_numbers(path: Path) -> list[float]:
    """Return the first number of each line of a file; lines that begin with ``#`` are comments.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line begins with no number, no number is positive, or one is negative or not finite.
    """
    lines = [line.split()[0] for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    try:
        values = [float(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise ValueError(f"{path}: a load needs rates of 0 and more, one per line, and one above 0")
    return values


def read_load(path: Path, peak: float, stretch: int) -> list[float]:
    """Return a load of a file (:func:`read_numbers`) with ``peak`` as its highest value; each lasts ``stretch`` s."""
    values = read_numbers(path)
    highest = max(values)
    return [value * peak / highest for value in values for _ in range(stretch)]


def read_curve(path: Path) -> Curve:
    """Return the curve of a recorded load: the median seconds in flight in each band of the share of the capacity.

    Raises:
        OSError: the file cannot be read.
        ValueError: it names no capacity, has no images in flight, or leaves a band without requests.
    """
    text = path.read_text()
    capacity = re.search(r"^#.*capacity ([0-9.]+)", text, re.MULTILINE)
    rows = [[float(word) for word in line.split()] for line in text.splitlines() if line and not line.startswith("#")]
    if capacity is None or any(len(row) < 2 for row in rows):
        raise ValueError(f"{path}: a curve needs the capacity of the server and the images in flight in each interval")
    points = [(rate / float(capacity[1]), flying / rate) for rate, flying, *_ in rows if rate > 0]
    curve, slowest = [], 0.0
    for low, high in itertools.pairwise(_BANDS):
        found = [seconds for share, seconds in points if low <= share < high]
        if not found:
            raise ValueError(f"{path}: no interval has {low:.0%} to {high:.0%} of the capacity")
        slowest = max(slowest, statistics.median(found))
        curve.append(((low + high) / 2, slowest))
    return (0.0, curve[0][1]), *curve, (1.0, curve[-1][1])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m veridict.deploy.scaling", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("scaled_object", type=Path, help="YAML file with the ScaledObject of the servers")
    parser.add_argument(
        "--load", type=Path, required=True, help="recorded load: images per interval, the first number of each line"
    )
    parser.add_argument(
        "--stretch", type=int, default=60, help="seconds that each line stands for (default: %(default)s)"
    )
    parser.add_argument(
        "--curve", type=Path, help="recorded load that gives the images in flight (default: those of a closed loop)"
    )
    parser.add_argument("--peaks", type=float, nargs="+", default=(10, 1000, 10_000), help="images/s at the peak")
    parser.add_argument("--rates", type=float, nargs="+", default=(82, 1120), help="images/s of a server at saturation")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 0."""
    import yaml

    arguments = build_parser().parse_args(argv)
    documents = yaml.safe_load_all(arguments.scaled_object.read_text())
    document = next(d for d in documents if d["metadata"]["name"] == "triton")
    curve = CURVE if arguments.curve is None else read_curve(arguments.curve)
    print("| images/s of a server | images/s at the peak | servers | peak per server | changes | reversals | refused |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rate in arguments.rates:
        for peak in arguments.peaks:
            scaler = size_for(Autoscaler.parse(document), rate)
            server = Server(rate, limit_for(rate), curve=curve)
            result = simulate(read_load(arguments.load, peak, arguments.stretch), server, scaler)
            most = max(result.replicas)
            cells = (
                f"{rate:,.0f}", f"{peak:,.0f}", f"{min(result.replicas)} to {most}", f"{peak / most:,.0f}",
                str(len(result.changes)), str(result.reversals), f"{result.refused / result.offered:.1%}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |")
    return 0


def limit_for(rate: float) -> float:
    """Return ``max_in_flight`` for a server of this rate: 0.45 s of work, 37 images at 82 images/s."""
    return 0.45 * rate


def size_for(autoscaler: Autoscaler, rate: float) -> Autoscaler:
    """Set the threshold of images under way to 0.15 s of work (a server is then 65% busy); lift the highest count."""
    kind, _ = autoscaler.triggers["images-under-way"]
    autoscaler.triggers["images-under-way"] = (kind, 0.15 * rate)
    autoscaler.highest = 10_000
    return autoscaler


if __name__ == "__main__":
    raise SystemExit(main())
