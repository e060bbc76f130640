"""Parses the lines of the logs of services, NATS and PostgreSQL: time, level and text."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

_NATS = re.compile(r"\[\d+\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+) \[(\w{3})\] (.*)", re.DOTALL)
_POSTGRES = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC \[\d+\] (\w+): +(.*)", re.DOTALL)
_LEVELS = {
    "TRC": "debug",
    "DBG": "debug",
    "INF": "info",
    "WRN": "warning",
    "ERR": "error",
    "FTL": "critical",
    "LOG": "info",
    "NOTICE": "info",
    "WARNING": "warning",
    "ERROR": "error",
    "FATAL": "error",
    "PANIC": "critical",
}
"""The level of a service's log line that corresponds to a level of NATS or PostgreSQL; others become `info`."""


class _Times(msgspec.Struct):
    timestamp: datetime | None = None
    at: datetime | None = None


class LogEntry(NamedTuple):
    """One line of a part's log."""

    part: str
    text: str
    """The line as it is in the file. The line of a service is a JSON object."""
    at: datetime | None
    """The time in the line; None if the line contains no time, as a line of a traceback."""

    @property
    def readable(self) -> str:
        """The line as a JSON log record of a service, or unchanged if its format is not known."""
        if found := _NATS.fullmatch(self.text) or _POSTGRES.fullmatch(self.text):
            record = {"event": found[3].strip(), "level": _LEVELS.get(found[2], "info")}
            return msgspec.json.encode(record).decode()
        return self.text

    def fields(self) -> dict[str, object]:
        """Return the part's name as `log`, and the fields of a service's record, or `text` and `at` of other lines."""
        try:
            fields = msgspec.json.decode(self.text, type=dict[str, object])
        except msgspec.DecodeError:
            fields = {"text": self.text, "at": self.at}
        return {**fields, "log": self.part}


def log_entry(part: str, text: str) -> LogEntry:
    """Return the entry of one line of a part's log."""
    return LogEntry(part, text, _time(text))


def _time(text: str) -> datetime | None:
    try:
        if text.startswith("{"):
            times = msgspec.json.decode(text, type=_Times)
            time = times.timestamp or times.at
            return time if time and time.tzinfo else None
        if found := _NATS.fullmatch(text):
            return datetime.strptime(found[1], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC)
        if found := _POSTGRES.fullmatch(text):
            return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    except (msgspec.DecodeError, ValueError):
        pass
    return None
