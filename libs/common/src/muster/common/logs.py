"""Writes log lines to stderr or a file, as JSON or as text for terminals.

A log line is a constant lower-case event with variables as keys.
"""

import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

from muster.common.terminal import printable_lines
from muster.common.trace import trace_id


def log_to_stderr(service: str, *, level: str = "INFO") -> None:
    """Set up logging for this process: one JSON object per line, or coloured text if stderr is a terminal."""
    _log_to(sys.stderr, service, level)


def log_to_file(service: str, path: Path, *, level: str = "INFO") -> None:
    """Set up logging for this process: append one JSON object per line to the file `path`. Raises `OSError`."""
    _log_to(path.open("a", buffering=1), service, level)


def _log_to(stream: TextIO, service: str, level: str) -> None:
    for_a_person = stream.isatty()
    # Use plain tracebacks, because rich ones print local variables, which may contain secrets (I6).
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
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _cleaned(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace control characters in the texts of a log line. Agents and clients choose some of the texts."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable_lines(value)
    return event


def _traced(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the trace id of the current context to a log line.

    This is cheaper than binding the trace id at every request, because log lines are few.
    """
    if trace := trace_id():
        event.setdefault("trace_id", trace)
    return event
