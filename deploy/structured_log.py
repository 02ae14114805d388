"""Structured logs: one JSON object per line, for our own records and for the lines that tritonserver prints.

Fields: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, and where there is one ``request_id``,
``trace_id``, ``span_id``, ``source`` (file:line of Triton) and ``exception``. No code logs image bytes, and a message
is cut after ``LONGEST`` characters. User names and passwords in URLs are replaced by ``***``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

FORMATS = ("text", "json")
#: Characters of a message that are kept.
LONGEST = 4000
_TRITON = re.compile(
    r"(?P<level>[IWEF])(?P<month>\d\d)(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d\.\d+) \d+ (?P<source>[\w./-]+:\d+)\] "
    r"(?P<message>.*)",
    re.DOTALL,
)
_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_REQUEST = re.compile(r"\[request id: (?!<id_unknown>)([^\]]+)\]")
#: Context of a record that goes into its line: ``LOG.info(..., extra={"request_id": ...})``.
_CONTEXT = ("request_id", "job", "method")


#: The user name and the password of a URL.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/]+@")


def hide_credentials(text: str) -> str:
    """Return the text with ``***`` in place of the user name and password of every URL in it."""
    return _CREDENTIALS.sub("***@", text)


def _line(time: datetime, level: str, logger: str, message: str, **more: str) -> str:
    fields = {"time": time.isoformat(timespec="milliseconds"), "level": level, "logger": logger}
    shown = hide_credentials(message)[:LONGEST]
    return json.dumps({**fields, "message": shown, **{name: text for name, text in more.items() if text}})


def format_triton_line(line: str, now: datetime | None = None) -> str:
    """Return a line of tritonserver's log as JSON, or "" for a blank line.

    Triton's time has no year: it is the one that puts the line closest before ``now``. A line without Triton's prefix,
    such as a row of its table of models, gets the time ``now`` and the level INFO.
    """
    now = now or datetime.now(UTC)
    if not line.strip():
        return ""
    found = _TRITON.match(line)
    if found is None:
        return _line(now, "ERROR" if line.startswith("error:") else "INFO", "tritonserver", line)
    when = datetime.fromisoformat(f"{now.year}-{found['month']}-{found['day']}T{found['clock'][:15]}+00:00")
    if (when - now).days > 1:  # a line of last year's December that is read in January
        when = when.replace(year=now.year - 1)
    message = _unquote(found["message"])
    request = _REQUEST.search(message)
    return _line(
        when,
        _LEVELS[found["level"]],
        "tritonserver",
        message,
        request_id=request[1] if request else "",
        source=found["source"],
    )


def _unquote(message: str) -> str:
    """Return the text of a message that Triton wrote as a JSON string; other text as it is."""
    try:
        return str(json.loads(message))
    except ValueError:
        return message


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with the ids of the current OpenTelemetry span."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        context = {**_current_span(), **{name: str(getattr(record, name, "")) for name in _CONTEXT}}
        return _line(
            datetime.fromtimestamp(record.created, UTC),
            record.levelname,
            record.name,
            record.getMessage(),
            **context,
            exception=hide_credentials(self.formatException(record.exc_info))[-LONGEST:] if record.exc_info else "",
        )


def _current_span() -> dict[str, str]:
    api = sys.modules.get("opentelemetry.trace")  # only loaded where there can be a span
    context = api.get_current_span().get_span_context() if api is not None else None
    if context is None or not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def print_line(text: str, form: str, level: str = "ERROR") -> None:
    """Print what a command has to say to standard error: as it is, or as JSON by the logger ``veridict``."""
    shown = _line(datetime.now(UTC), level, "veridict", text) if form == "json" else hide_credentials(text)
    print(shown, file=sys.stderr, flush=True)


class TextFormatter(logging.Formatter):
    """Formats a record as a line for people, with a traceback after it where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return hide_credentials(super().format(record))


def set_up_logging(form: str) -> None:
    """Log to standard error from level INFO on, as ``text`` or as ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
