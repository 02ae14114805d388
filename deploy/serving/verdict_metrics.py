"""The metrics of the model ``fusion``: verdicts and scores by category, latency, and where the time goes.

Every label has a fixed set of values, known when the model loads. A replica exports four verdict series and ten score
series per category of the prompt bank (196 series with the bundled 14 categories), whatever the images are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
        # A metric disappears with its family, so the families are kept.
        self._families: list[Any] = []

        def family(name: str, text: str, kind: Any = pb_utils.MetricFamily.COUNTER) -> Any:
            made = pb_utils.MetricFamily(name=f"veridict_{name}", description=text, kind=kind)
            self._families.append(made)
            return made

        info = family("models_info", "What judges: versions as labels", pb_utils.MetricFamily.GAUGE)
        self._info = info.Metric(labels=dict(vars(versions)))
        self._info.set(1)
        verdicts = family("verdicts_total", "Images judged")
        scores = family("fake_probability_total", "Images by fake probability (tenth = upper bound, not cumulative)")
        stages = family("stage_seconds_total", "Seconds that judged images spent, by stage")
        buckets = family("latency_seconds_bucket", "Images judged within le seconds after preprocess received them")
        metrics: dict[Hashable, Any] = {}
        for category in categories:
            for verdict in ("real", "deepfake"):
                for confidence in ("high", "low"):
                    labels = {"category": category, "verdict": verdict, "confidence": confidence}
                    metrics["verdict", category, verdict, confidence] = verdicts.Metric(labels=labels)
            for index in range(_TENTHS):
                tenth = tenth_of(index / _TENTHS)
                metrics["score", category, tenth] = scores.Metric(labels={"category": category, "tenth": tenth})
        metrics |= {("stage", stage): stages.Metric(labels={"stage": stage}) for stage in STAGES}
        metrics |= {("within", bound): buckets.Metric(labels={"le": str(bound)}) for bound in LATENCY_BOUNDS}
        metrics["all"] = buckets.Metric(labels={"le": "+Inf"})
        metrics["sum"] = family("latency_seconds_sum", "Seconds from preprocess to the verdict, summed").Metric(
            labels={}
        )
        metrics["count"] = family("latency_seconds_count", "Images in the latency histogram").Metric(labels={})
        self._buffer = MetricsBuffer(metrics)

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
