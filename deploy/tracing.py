"""OpenTelemetry tracing: the options that make Triton export spans, and the tracer provider of our own processes."""

from __future__ import annotations

import argparse
import os
import urllib.parse

from .structured_log import FORMATS

#: The standard variable: base URL of an OTLP/HTTP receiver, such as ``http://collector:4318``; "" for no tracing.
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES = "/v1/traces"


def add_telemetry_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of traces and logs that server and worker share."""
    parser.add_argument(
        "--otlp",
        metavar="URL",
        default=os.environ.get(ENDPOINT_VARIABLE, ""),
        help="OTLP/HTTP receiver of OpenTelemetry spans, such as http://collector:4318 "
        f"(default: ${ENDPOINT_VARIABLE}; none: no traces)",
    )
    parser.add_argument(
        "--log-format", choices=FORMATS, default="text", help="lines for people, or JSON (default: %(default)s)"
    )


def traces_url(endpoint: str) -> str:
    """Return the URL that spans are posted to: ``endpoint``, with ``/v1/traces`` unless it ends so already.

    Raises:
        ValueError: it is no http(s) URL.
    """
    parts = urllib.parse.urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"the OTLP endpoint is a URL such as http://collector:4318, not {endpoint!r}")
    return endpoint if endpoint.endswith(_TRACES) else endpoint.rstrip("/") + _TRACES


def triton_arguments(endpoint: str, rate: int) -> list[str]:
    """Return the options with which tritonserver posts spans (OTLP over HTTP, JSON); none without an endpoint.

    Triton traces every request that carries a ``traceparent`` header, and besides those one in ``rate`` of the others;
    0 leaves the choice to the clients.

    Raises:
        ValueError: the endpoint is no http(s) URL.
    """
    if not endpoint:
        return []
    settings = (
        "mode=opentelemetry",
        f"rate={rate}",
        "level=TIMESTAMPS",
        f"opentelemetry,url={traces_url(endpoint)}",
        "opentelemetry,resource=service.name=veridict-triton",
    )
    return [f"--trace-config={setting}" for setting in settings]


def set_up_tracing(service: str, endpoint: str) -> None:
    """Post this process's spans to an OTLP/HTTP receiver, in batches from a thread; does nothing without an endpoint.

    Raises:
        ValueError: the endpoint is no http(s) URL, or the extra ``tracing`` is not installed.
    """
    if not endpoint:
        return
    url = traces_url(endpoint)
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(f"tracing needs more packages ({error}): pip install 'veridict[tracing]'") from error
    # Resource.create() prefers an explicit attribute to the standard variable.
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    trace.set_tracer_provider(provider)
