"""The metrics of the model ``fusion``: verdicts and scores by category, latency, and where the time goes.

Every label has a fixed set of values, known when the model loads. A replica exports four verdict series and ten score
series per category of the prompt bank (196 series with the bundled 14 categories), whatever the images are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from veridict.forensics.contract import ModelVersions, Verdict

from .metrics_buffer import MetricsBuffer

#: Upper bounds of the latency histogram in seconds.
LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: The steps of ``timings_ms`` in an answer.
STAGES = ("queue", "decode", "shrink", "forensics", "faces", "view", "provenance", "hash", "grouping", "networks")
_TENTHS = 10


def tenth_of(probability: float) -> str:
    """Return the upper bound of the tenth that a probability lies in: "0.1" for 0 up to but excluding 0.1."""
    return f"{(min(_TENTHS - 1, int(probability * _TENTHS)) + 1) / _TENTHS:.1f}"


class VerdictMetrics:
    """Counts verdicts; a :class:`MetricsBuffer` publishes the counts."""

    def __init__(self, pb_utils: Any, categories: Sequence[str], versions: ModelVersions) -> None:
        """Create every series, so that each exists with the value 0 before its first image.

        ``pb_utils``: the Python backend's module. ``categories``: the labels of the prompt bank. ``versions``: what
        judges; the gauge ``veridict_models_info`` has them as labels and the value 1.
        """
        self._buffer = MetricsBuffer(pb_utils)
        self._buffer.gauge("models_info", "What judges: versions as labels", lambda: 1, vars(versions))
        verdicts: dict[Any, dict[str, str]] = {}
        scores: dict[Any, dict[str, str]] = {}
        for category in categories:
            for verdict in ("real", "deepfake"):
                for confidence in ("high", "low"):
                    labels = {"category": category, "verdict": verdict, "confidence": confidence}
                    verdicts["verdict", category, verdict, confidence] = labels
            for index in range(_TENTHS):
                tenth = tenth_of(index / _TENTHS)
                scores["score", category, tenth] = {"category": category, "tenth": tenth}
        buckets: dict[Any, dict[str, str]] = {("within", bound): {"le": str(bound)} for bound in LATENCY_BOUNDS}
        buckets["all"] = {"le": "+Inf"}
        stages: dict[Any, dict[str, str]] = {("stage", stage): {"stage": stage} for stage in STAGES}
        families: tuple[tuple[str, str, dict[Any, dict[str, str]]], ...] = (
            ("verdicts_total", "Images judged", verdicts),
            ("fake_probability_total", "Images by fake probability (tenth = upper bound, not cumulative)", scores),
            ("stage_seconds_total", "Seconds that judged images spent, by stage", stages),
            ("latency_seconds_bucket", "Images judged within le seconds after preprocess received them", buckets),
            ("latency_seconds_sum", "Seconds from preprocess to the verdict, summed", {"sum": {}}),
            ("latency_seconds_count", "Images in the latency histogram", {"count": {}}),
        )
        for name, text, series in families:
            self._buffer.counters(name, text, series)

    def count(self, verdict: Verdict) -> None:
        """Count one judged image."""
        label = verdict.category.label
        spent = {stage: verdict.timings_ms.get(stage, 0.0) * 1e-3 for stage in STAGES}
        seconds = sum(spent.values())
        within = [("within", bound) for bound in LATENCY_BOUNDS if seconds <= bound]
        score = ("score", label, tenth_of(verdict.fake_probability))
        self._buffer.count(("verdict", label, verdict.verdict, verdict.confidence), score, "all", "count", *within)
        self._buffer.add({("stage", stage): value for stage, value in spent.items()} | {"sum": seconds})

    def close(self) -> None:
        """Publish the last counts."""
        self._buffer.close()
