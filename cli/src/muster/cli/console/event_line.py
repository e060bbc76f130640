"""Formats an event of a task's feed as one line of text."""

import os
import sys
from collections.abc import Mapping
from typing import TextIO, cast

import click
import msgspec

from muster.cli.console.deliveries import delivery_line
from muster.cli.console.large_bodies import large_body_text
from muster.cli.console.model_failures import failed_call, failure_line
from muster.cli.console.network_connections import network_connection
from muster.cli.console.table import shortened, terminal_columns
from muster.common.contracts.feed import FeedEvent
from muster.common.terminal import one_line, printable

COLOURS = {"task": "cyan", "log": None, "guardian": "yellow"}
MOST_CHARS = 140
"""Longest summary of an event, in characters."""
_SUMMARY_FIELDS = (
    "command",
    "text",
    "message",
    "content",
    "summary",
    "reason",
    "path",
    "error",
    "why",
    "outcome",
    "detail",
    "detector",
)
"""Fields in which agents and services describe an event, the most informative first."""
_DEPTH = 4
"""Levels of nesting that are searched for a summary field."""
_CAUSE_FIELDS = ("reason", "error", "validation")
_FIELDS_OF_STATE: Mapping[str, tuple[str, ...]] = {
    "queued": _CAUSE_FIELDS,
    "assigned": (),
    "running": (),
    "validating": ("summary",),
    "completed": ("summary",),
    "retrying": _CAUSE_FIELDS,
    "failed": _CAUSE_FIELDS,
    "cancelled": _CAUSE_FIELDS,
    "escalated": _CAUSE_FIELDS,
}
"""Fields that describe a change to this state. The event contains the whole task, so its other fields may describe an
earlier attempt."""


def coloured(stream: TextIO) -> bool:
    """Return whether to print colours: the stream is a terminal and NO_COLOR is not set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def event_line(event: FeedEvent, stream: TextIO | None = None, *, summary: str | None = None) -> str:
    """Format an event as `12:00:01  log       …4f2a #17  ActionEvent  pytest -q`: time, source, sandbox, seq, kind.

    The line ends with `summary`, by default the event's own, and is cut to the width of `stream` (by default stdout) if
    that is a terminal.
    """
    out = stream or sys.stdout
    position = f"…{event.sandbox_id[-4:]}" if event.sandbox_id else ""
    if event.seq is not None:
        position += f" #{event.seq}"
    summary = event_summary(event) if summary is None else summary
    text = f"{event.at.astimezone():%H:%M:%S}  {event.source:<8}  {position:<11}  {event.kind:<18}  {summary}"
    # An agent chooses the kind and the text of its events, so control characters are removed from the whole line.
    text = printable(text).rstrip()
    if out.isatty():
        text = shortened(text, terminal_columns())
    colour = COLOURS[event.source]
    return click.style(text, fg=colour) if colour and coloured(out) else text


def event_summary(event: FeedEvent) -> str:
    """Return the most informative text in an event's body on one line of at most `MOST_CHARS` characters."""
    if failed := failed_call(event):
        return shortened(one_line(failure_line(failed)), MOST_CHARS)
    if made := network_connection(event):
        return shortened(one_line(made.sentence), MOST_CHARS)
    if large := large_body_text(event):
        return shortened(large.splitlines()[0], MOST_CHARS)
    body = msgspec.json.decode(event.body or b"null")
    if event.source == "task" and event.kind in _FIELDS_OF_STATE:
        text = delivery_line(_field(body, "delivery")) or _first_line(body, _FIELDS_OF_STATE[event.kind])
    else:
        text = _body_summary(body)
    if event.source == "task" and event.state and event.state != event.kind:
        text = f"{event.state}  {text}".rstrip()
    return shortened(one_line(text), MOST_CHARS)


def _first_line(body: object, names: tuple[str, ...]) -> str:
    """Return the first line of the first nonblank field in `names`; an empty string if all fields are blank."""
    values = (_field(body, name) for name in names)
    texts = (value.strip() for value in values if isinstance(value, str))
    return next((text.splitlines()[0] for text in texts if text), "")


def _body_summary(body: object) -> str:
    """Return an action's command, an observation's content or, for any other body, its first summary field."""
    action, observation = _field(body, "action"), _field(body, "observation")
    if action is not None:
        values = (_field(action, name) for name in ("command", "path"))
        return " ".join(value for value in values if isinstance(value, str)) or _find_summary(action, _DEPTH)
    # An observation also contains the command of its action. The action's own line already shows this command.
    content = _field(observation, "content")
    return _find_summary(body if content is None else content, _DEPTH)


def _field(body: object, name: str) -> object:
    return cast("dict[str, object]", body).get(name) if isinstance(body, dict) else None


def _find_summary(body: object, depth: int) -> str:
    """Return the first text found in `body`; search the fields in `_SUMMARY_FIELDS` first, then nested objects."""
    if isinstance(body, str):
        return body
    if not depth:
        return ""
    parts: list[object] = []
    if isinstance(body, list):
        parts += cast("list[object]", body)
    elif isinstance(body, dict):
        fields = cast("dict[str, object]", body)
        parts += [fields.get(name) for name in _SUMMARY_FIELDS]
        parts += [part for name, part in fields.items() if name not in _SUMMARY_FIELDS and not isinstance(part, str)]
    return next(filter(None, (_find_summary(part, depth - 1) for part in parts)), "")
