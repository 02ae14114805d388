"""The client's OpenTelemetry span: one per call of ``detect``. Its headers make the server's spans its children.

``opentelemetry-api`` is optional. Spans are recorded only where the application has set up a tracer provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ._errors import VeridictError

try:
    from opentelemetry import propagate, trace
except ImportError:  # the client alone needs no tracing package
    _TRACED = False
else:
    _TRACED = True


@contextmanager
def request_span(request_id: str, trace_context: Mapping[str, str] | None) -> Iterator[dict[str, str]]:
    """Yield the headers to send while a span ``veridict.detect`` covers the call, all attempts included.

    The span's parent is ``trace_context``, or else the current span. A span that is not sampled sends no header of its
    own: Triton traces every request that carries one.
    """
    given = dict(trace_context or {})
    if not _TRACED:
        yield given
        return
    parent = propagate.extract(given) if given else None
    with trace.get_tracer("veridict.client").start_as_current_span(
        "veridict.detect",
        context=parent,
        kind=trace.SpanKind.CLIENT,
        attributes={"veridict.request_id": request_id},
        record_exception=False,  # the message may be long; the code says what happened
        set_status_on_exception=False,
    ) as span:
        if span.get_span_context().trace_flags.sampled:
            propagate.inject(given)
        try:
            yield given
        except VeridictError as error:
            span.set_status(trace.Status(trace.StatusCode.ERROR, error.code))
            raise
