"""Formats an agent's log line for a terminal: a JSON log record becomes level, message and fields."""

import sys

import click
import msgspec

from muster.cli.console.event_line import coloured
from muster.common.terminal import printable

COLOURS = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}
"""Colour of a line by its log level. The line also contains the level as a word."""
_HEAD_FIELDS = frozenset({"at", "timestamp", "level", "logger", "event"})
"""Fields that are not printed as `name=value`: level and event begin the line, the other three are omitted."""
_PLAIN_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/@+%#")


def readable_lines(text: str) -> list[str]:
    """Return one or more terminal lines for one log line of an agent.

    A JSON log record becomes `level event name=value …`; each multi-line field, for instance a traceback, follows on
    separate indented lines. Any other text is returned with its control characters removed.
    """
    fields = _structured(text)
    if fields is None:
        return [_visible(text)]
    level = str(fields.get("level", "")).lower()
    short: list[str] = []
    long: list[str] = []
    for name, value in fields.items():
        if isinstance(value, str) and "\n" in value.strip():
            long += [f"  {_visible(line)}".rstrip() for line in value.strip().splitlines()]
        elif name not in _HEAD_FIELDS and value is not None:
            short.append(f"{name}={_field_text(value)}")
    first = "  ".join((f"{level:<7}", _visible(str(fields["event"])), *short)).rstrip()
    colour = COLOURS.get(level)
    return [click.style(first, fg=colour) if colour and coloured(sys.stdout) else first, *long]


def _structured(text: str) -> dict[str, object] | None:
    """Return the fields of a JSON log record; None if the text is not a JSON object with a string `event`."""
    if not text.startswith("{"):
        return None
    try:
        fields = msgspec.json.decode(text.encode(), type=dict[str, object])
    except msgspec.DecodeError:
        return None
    return fields if isinstance(fields.get("event"), str) else None


def _field_text(value: object) -> str:
    if isinstance(value, str) and value and _PLAIN_CHARS.issuperset(value):
        return value
    return _visible(msgspec.json.encode(value).decode())


def _visible(text: str) -> str:
    return printable(text.replace("\t", "    "))
