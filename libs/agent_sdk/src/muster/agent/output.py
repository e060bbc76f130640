"""What an agent's process prints: one JSON object per line on stderr, which the shim keeps and the manager streams."""

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any, cast, override

import msgspec

from muster.common.clock import rfc3339

_agent = logging.getLogger("agent")


class JsonLines(logging.Formatter):
    """`{"at", "level", "logger", "event", …}`; variables come in `extra={"fields": {…}}`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        line = {**line, **{name: value for name, value in getattr(record, "fields", {}).items() if name not in line}}
        return msgspec.json.encode(line, enc_hook=str).decode()


def log_to_stderr() -> None:
    """Sends everything this process logs to stderr as JSON lines; what it prints goes out line by line too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    cast("TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)  # a pipe's output would wait for 8 KiB


def emit_line(kind: str, fields: dict[str, Any]) -> None:
    """Something the agent says has happened, as a line of its log."""
    _agent.info(kind, extra={"fields": fields})


def bus_logs_here() -> None:
    """Lets what the bus logs through structlog come out like everything else."""
    import structlog

    def through_logging(_: object, method: str, event: MutableMapping[str, Any]) -> str:
        level = logging.getLevelNamesMapping().get(method.upper(), logging.ERROR)  # `exception` is none
        text = str(event.pop("event", ""))
        exc_info = bool(event.pop("exc_info", False)) or method == "exception"
        logging.getLogger("bus").log(level, text, exc_info=exc_info, extra={"fields": dict(event)})
        raise structlog.DropEvent

    structlog.configure(processors=[through_logging], cache_logger_on_first_use=True)
