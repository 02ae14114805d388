"""Metrics of verdicts, structured logs, tracing options and the client's span, without a server."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from veridict.client import InvalidImageError
from veridict.client.tracing import request_span
from veridict.deploy.serving.verdict_metrics import LATENCY_BOUNDS, STAGES, VerdictMetrics, tenth_of
from veridict.deploy.structured_log import LONGEST, JsonFormatter, format_triton_line
from veridict.deploy.tracing import set_up_tracing, traces_url, triton_arguments
from veridict.forensics.contract import ModelVersions

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def verdict(label, probability, **timings):
    kind = "deepfake" if probability > 0.5 else "real"
    return SimpleNamespace(
        category=SimpleNamespace(label=label),
        verdict=kind,
        confidence="high",
        fake_probability=probability,
        timings_ms=timings,
    )


def test_verdicts_scores_latency_and_stages_are_counted(backend):
    versions = ModelVersions("c", "f", "k", "x", "p")
    metrics = VerdictMetrics(backend, ("food", "person"), versions)
    assert all(metric.value == 0 for name, metric in backend.series.items() if name[0] != "veridict_models_info")
    metrics.count(verdict("food", 0.97, queue=10.0, networks=50.0, unknown=1e6))
    metrics.count(verdict("food", 0.03, decode=3.0))
    metrics.close()
    found = {name: metric.value for name, metric in backend.series.items() if metric.value}
    within = {("veridict_latency_seconds_bucket", str(bound)): 2 - (bound < 0.06) for bound in LATENCY_BOUNDS}
    assert found == pytest.approx(
        {
            ("veridict_models_info", "c", "f", "k", "x", "p"): 1,
            ("veridict_verdicts_total", "food", "deepfake", "high"): 1,
            ("veridict_verdicts_total", "food", "real", "high"): 1,
            ("veridict_fake_probability_total", "food", "1.0"): 1,
            ("veridict_fake_probability_total", "food", "0.1"): 1,
            ("veridict_stage_seconds_total", "queue"): 0.01,
            ("veridict_stage_seconds_total", "networks"): 0.05,
            ("veridict_stage_seconds_total", "decode"): 0.003,
            **within,
            ("veridict_latency_seconds_bucket", "+Inf"): 2,
            ("veridict_latency_seconds_sum",): 0.063,
            ("veridict_latency_seconds_count",): 2,
        }
    )


def test_the_number_of_series_depends_on_the_categories_alone(backend):
    labels = [f"category {n}" for n in range(14)]
    VerdictMetrics(backend, labels, ModelVersions("", "", "")).close()
    assert len(backend.series) == 14 * (4 + 10) + len(STAGES) + len(LATENCY_BOUNDS) + 4


def test_tenths_cover_zero_to_one():
    assert [tenth_of(p) for p in (0.0, 0.099, 0.1, 0.55, 0.999, 1.0)] == ["0.1", "0.1", "0.2", "0.6", "1.0", "1.0"]


def test_a_line_of_triton_becomes_json():
    line = 'W0102 03:04:04.774208 721 server.cc:305] "[request id: req-1] it \\"failed\\""'
    assert json.loads(format_triton_line(line, NOW)) == {
        "time": "2026-01-02T03:04:04.774+00:00",
        "level": "WARNING",
        "logger": "tritonserver",
        "message": '[request id: req-1] it "failed"',
        "request_id": "req-1",
        "source": "server.cc:305",
    }
    assert json.loads(format_triton_line("I1231 23:59:59.0 7 a.cc:1] x", NOW))["time"].startswith("2025-12-31T23:59:59")
    assert "request_id" not in json.loads(
        format_triton_line('E0102 03:04:04.1 7 a.cc:1] "[request id: <id_unknown>] x"')
    )
    assert json.loads(format_triton_line("error: creating server", NOW))["level"] == "ERROR"
    assert json.loads(format_triton_line("| fusion | READY |", NOW))["message"] == "| fusion | READY |"
    assert format_triton_line("  ", NOW) == ""
    assert len(json.loads(format_triton_line("x" * 10**6, NOW))["message"]) == LONGEST


def test_a_record_becomes_json_with_its_context():
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "f.py", 1, "job %s", ("x",), sys.exc_info())
    record.job, record.method = "id", "shap"
    with TracerProvider(sampler=ALWAYS_ON).get_tracer("t").start_as_current_span("s") as span:
        found = json.loads(JsonFormatter().format(record))
    assert (found["level"], found["logger"], found["message"]) == ("ERROR", "a.b", "job x")
    assert (found["job"], found["method"]) == ("id", "shap")
    assert found["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert "ValueError: broken" in found["exception"]
    assert set(json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))) == {
        "time",
        "level",
        "logger",
        "message",
    }


def test_endpoints_are_read_as_the_standard_says():
    assert traces_url("http://host:4318") == traces_url("http://host:4318/") == "http://host:4318/v1/traces"
    assert traces_url("https://host/otlp/v1/traces") == "https://host/otlp/v1/traces"
    for wrong in ("host:4318", "grpc://host", "http://"):
        with pytest.raises(ValueError, match="OTLP endpoint"):
            triton_arguments(wrong, 0)
        with pytest.raises(ValueError, match="OTLP endpoint"):
            set_up_tracing("x", wrong)
    assert triton_arguments("", 5) == []
    assert "--trace-config=rate=5" in triton_arguments("http://host", 5)
    set_up_tracing("x", "")  # without an endpoint nothing is set up
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)


@pytest.fixture
def spans(monkeypatch):
    """Record the client's spans with a provider of this test alone; returns a function that takes the sampler."""
    exporter = InMemorySpanExporter()

    def record(sampler):
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
        return exporter

    return record


def test_a_sampled_span_is_the_parent_of_the_servers(spans):
    exporter = spans(ALWAYS_ON)
    with request_span("mine", {"traceparent": PARENT, "tracestate": "a=b"}) as headers:
        pass
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.attributes["veridict.request_id"]) == ("veridict.detect", "mine")
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert headers["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-{span.context.span_id:016x}-01"
    assert headers["tracestate"] == "a=b"


def test_a_span_that_is_not_sampled_sends_nothing_of_its_own(spans):
    spans(ALWAYS_OFF)
    with request_span("mine", None) as headers:
        assert headers == {}
    with request_span("mine", {"traceparent": PARENT}) as headers:
        assert headers == {"traceparent": PARENT}


def test_without_a_provider_headers_pass_as_they_are():
    async def send():
        with request_span("mine", {"traceparent": "00-1"}) as headers:
            return headers

    assert asyncio.run(send()) == {"traceparent": "00-1"}


def test_an_error_is_the_status_of_the_span(spans):
    exporter = spans(ALWAYS_ON)
    error = InvalidImageError("[image.corrupt] no")
    with pytest.raises(InvalidImageError), request_span("mine", None):
        raise error
    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, error.code)
    assert not span.events
