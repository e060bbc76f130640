"""Log output of an agent process: one JSON object per line on stderr. The shim stores the lines for the manager.

The shim is the process that starts agents and workers.
"""

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any, cast, override

import msgspec

from muster.common.clock import rfc3339

_agent = logging.getLogger("agent")
_TRACEBACK_CHARS = 8_000
"""Most characters of a traceback. The end is kept. The manager splits a line over 16 KiB, which is then no JSON."""


class JsonLines(logging.Formatter):
    """Formats a log record as `{"at", "level", "logger", "event", …}`. `extra={"fields": {…}}` adds further fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-_TRACEBACK_CHARS:]
        line = {**line, **{name: value for name, value in getattr(record, "fields", {}).items() if name not in line}}
        return msgspec.json.encode(line, enc_hook=str).decode()


def log_to_stderr() -> None:
    """Write all log records of this process to stderr as JSON lines, and flush stdout after each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Without line buffering, output to a pipe is written only in pieces of 8 KiB.
    cast("TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)


def emit_line(kind: str, fields: dict[str, Any]) -> None:
    """Write an event of `Agent.emit` as a line of the agent's log."""
    _agent.info(kind, extra={"fields": fields})


def route_structlog_to_logging() -> None:
    """Send log records of structlog, which the NATS code uses, to `logging`, so that they become JSON lines too."""
    import structlog

    def through_logging(_: object, method: str, event: MutableMapping[str, Any]) -> str:
        # structlog's method `exception` is no level name, so it is logged as an error.
        level = logging.getLevelNamesMapping().get(method.upper(), logging.ERROR)
        text = str(event.pop("event", ""))
        exc_info = bool(event.pop("exc_info", False)) or method == "exception"
        logging.getLogger("bus").log(level, text, exc_info=exc_info, extra={"fields": dict(event)})
        raise structlog.DropEvent

    structlog.configure(processors=[through_logging], cache_logger_on_first_use=True)
