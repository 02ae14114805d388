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
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .recorded_loads import Curve, read_curve, read_load

SYNC = 15
TOLERANCE = 0.1
#: Seconds of the average in the queries (``[1m]``).
WINDOW = 60
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
    """Print the table; return 0, or 1 with the reason on standard error."""
    arguments = build_parser().parse_args(argv)
    try:
        print_table(arguments)
    except (OSError, ValueError) as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    return 0


def print_table(arguments: argparse.Namespace) -> None:
    """Print a row per rate and peak.

    Raises:
        OSError, ValueError: a file cannot be read, or is not what it should be.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(arguments.scaled_object.read_text()))
        document = next(d for d in documents if d["kind"] == "ScaledObject" and d["metadata"]["name"] == "triton")
    except (yaml.YAMLError, LookupError, TypeError, StopIteration):
        raise ValueError(f"{arguments.scaled_object} has no ScaledObject with the name triton") from None
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
