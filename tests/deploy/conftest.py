"""A stand-in for the metrics of Triton's Python backend, whose module exists only inside a server."""

from types import SimpleNamespace

import pytest


class Metric:
    def __init__(self):
        self.calls, self.value = 0, 0.0

    def increment(self, number):
        self.calls += 1
        self.value += number

    def set(self, number):
        self.value = number


@pytest.fixture
def backend():
    """The backend's module as far as metrics need it; ``series`` keeps every metric by name and label values."""
    series = {}

    class MetricFamily:
        COUNTER, GAUGE = "counter", "gauge"

        def __init__(self, name, description, kind):
            self.name = name

        def Metric(self, labels):
            return series.setdefault((self.name, *labels.values()), Metric())

    return SimpleNamespace(MetricFamily=MetricFamily, series=series)
