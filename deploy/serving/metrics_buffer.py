"""A buffer for the counters of Triton's metrics endpoint: counts here, publishes twice a second.

Every increment of a custom metric is a round trip between two processes. On a saturated machine two increments cost
more time than the fusion of one image.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: Seconds between two publications.
PUBLISHED_EVERY = 0.5
#: Series of what is read again while the server runs: whether what was read is sound -> labels.
SOUND_OR_REFUSED: Mapping[bool, Mapping[str, str]] = MappingProxyType(
    {True: {"result": "sound"}, False: {"result": "refused"}}
)


@dataclass
class _Gauge:
    """A gauge, the function that reads its value, and the value that was published last."""

    metric: Any
    read: Callable[[], float]
    value: float | None = None

    def publish(self) -> None:
        """Set the metric if its value changed."""
        value = self.read()
        if value != self.value:
            self.metric.set(value)
            self.value = value


class MetricsBuffer:
    """The metrics of a Python model: counts by key, and adds the counts at intervals, from a thread of its own."""

    def __init__(self, pb_utils: Any, period: float = PUBLISHED_EVERY) -> None:
        """Take the Python backend's module, and the seconds between two publications."""
        self._family = pb_utils.MetricFamily
        # A metric disappears with its family, so the families are kept.
        self._families: list[Any] = []
        self._metrics: dict[Hashable, Any] = {}
        self._gauges: list[_Gauge] = []
        self._counts: Counter[Hashable] = Counter()
        self._sums: dict[Hashable, float] = {}
        self._lock = threading.Lock()
        self._period = period
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def counters(self, name: str, text: str, series: Mapping[Any, Mapping[str, str]] = MappingProxyType({})) -> Any:
        """Create the family of counters ``veridict_`` + ``name``, with a series per key, and return it.

        ``series``: the labels by the key that :meth:`count` and :meth:`add` take. Each exists with the value 0 before
        its first count.
        """
        family = self._new_family(name, text, self._family.COUNTER)
        for key, labels in series.items():
            self.include(key, family, labels)
        return family

    def gauge(self, name: str, text: str, read: Callable[[], float], labels: Mapping[str, str] | None = None) -> None:
        """Create the gauge ``veridict_`` + ``name``; ``read`` returns its value, now and at each publication.

        Without labels it has this process's id as the label ``process``: each replica's model has a level of its own.
        """
        labels = {"process": str(os.getpid())} if labels is None else labels
        metric = self._new_family(name, text, self._family.GAUGE).Metric(labels=dict(labels))
        gauge = _Gauge(metric, read)
        gauge.publish()
        self._gauges.append(gauge)

    def include(self, key: Hashable, family: Any, labels: Mapping[str, str]) -> None:
        """Add a series to a family that :meth:`counters` returned, unless its key is there."""
        if key not in self._metrics:
            self._metrics[key] = family.Metric(labels=dict(labels))

    def _new_family(self, name: str, text: str, kind: Any) -> Any:
        family = self._family(name=f"veridict_{name}", description=text, kind=kind)
        self._families.append(family)
        return family

    def count(self, *keys: Hashable) -> None:
        """Count each key once."""
        with self._lock:
            self._counts.update(keys)

    def add(self, numbers: Mapping[Hashable, float]) -> None:
        """Add a number to each key, such as seconds."""
        with self._lock:
            for key, number in numbers.items():
                self._sums[key] = self._sums.get(key, 0.0) + number

    def publish(self) -> None:
        """Add the counts since the last publication to the metrics, and set the gauges."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            sums, self._sums = self._sums, {}
        for key, number in (*counts.items(), *sums.items()):
            self._metrics[key].increment(number)
        for gauge in tuple(self._gauges):
            gauge.publish()

    def _run(self) -> None:
        while not self._stopped.wait(self._period):
            self.publish()

    def close(self) -> None:
        """Publish the remaining counts, end the thread and let the metrics go.

        A metric that outlives the objects of the Python backend crashes the process at its end.
        """
        self._stopped.set()
        self._thread.join()
        self.publish()
        for held in (self._gauges, self._metrics, self._families):
            held.clear()
