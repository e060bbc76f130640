"""A line that an agent wrote, for a person: as it is, or what a structured one says."""

import sys

import click
import msgspec

from muster.cli.console.event_line import coloured
from muster.common.terminal import printable

COLOURS = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}
"""Always beside the word."""
_SAID = frozenset({"at", "timestamp", "level", "logger", "event"})
_PLAIN_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/@+%#")


def readable_lines(text: str) -> list[str]:
    """At least one line; several where a field, as a traceback, has several."""
    fields = _structured(text)
    if fields is None:
        return [_visible(text)]
    level = str(fields.get("level", "")).lower()
    short: list[str] = []
    long: list[str] = []
    for name, value in fields.items():
        if isinstance(value, str) and "\n" in value.strip():
            long += [f"  {_visible(line)}".rstrip() for line in value.strip().splitlines()]
        elif name not in _SAID and value is not None:
            short.append(f"{name}={_word(value)}")
    first = "  ".join((f"{level:<7}", _visible(str(fields["event"])), *short)).rstrip()
    colour = COLOURS.get(level)
    return [click.style(first, fg=colour) if colour and coloured(sys.stdout) else first, *long]


def _structured(text: str) -> dict[str, object] | None:
    """Its fields, if it is a JSON object that says what happened."""
    if not text.startswith("{"):
        return None
    try:
        fields = msgspec.json.decode(text.encode(), type=dict[str, object])
    except msgspec.DecodeError:
        return None
    return fields if isinstance(fields.get("event"), str) else None


def _word(value: object) -> str:
    if isinstance(value, str) and value and _PLAIN_CHARS.issuperset(value):
        return value
    return _visible(msgspec.json.encode(value).decode())


def _visible(text: str) -> str:
    return printable(text.replace("\t", "    "))
