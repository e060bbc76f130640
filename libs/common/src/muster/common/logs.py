"""Log lines: a constant lower-case event, variables as keys, JSON on stderr unless stderr is a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from muster.common.terminal import printable_lines
from muster.common.trace import trace_id


def log_to_stderr(service: str, *, level: str = "INFO") -> None:
    """Set up logging for this process. One JSON object per line; for a terminal, coloured text."""
    for_a_person = sys.stderr.isatty()
    # Plain tracebacks: a rich one prints local variables, and with them secrets (I6).
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _traced,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([_cleaned] if for_a_person else []),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if for_a_person
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _cleaned(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return a value as text. Agents and clients choose some values; one that is not text is shown by its `repr`."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable_lines(value)
    return event


def _traced(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return the trace of the current context: looked up for the few log lines, instead of bound for every request."""
    if trace := trace_id():
        event.setdefault("trace_id", trace)
    return event
