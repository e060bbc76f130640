"""One event of a feed as one line for a person."""

import os
import sys
from collections.abc import Mapping
from typing import TextIO, cast

import click
import msgspec

from muster.cli.console.table import shortened, terminal_columns
from muster.common.contracts.feed import FeedEvent
from muster.common.terminal import one_line, printable

COLOURS = {"task": "cyan", "log": None, "guardian": "yellow"}
MOST_CHARS = 140
_TELLING = (
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
"""The fields, most telling first, in which agents and services say what happened."""
_DEPTH = 4
_WHY = ("reason", "error", "validation")
_OF_STATE: Mapping[str, tuple[str, ...]] = {
    "queued": _WHY,
    "assigned": (),
    "running": (),
    "validating": ("summary",),
    "completed": ("summary",),
    "retrying": _WHY,
    "failed": _WHY,
    "cancelled": _WHY,
    "escalated": _WHY,
}
"""What a change of state has to say. Its event carries the whole task's texts, those of earlier attempts too."""


def coloured(stream: TextIO) -> bool:
    """Whether it is a terminal whose owner has nothing against colours (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def line(event: FeedEvent, stream: TextIO | None = None) -> str:
    """`12:00:01  log       sbx…4f2a #17  ActionEvent  pytest -q`, no longer than a line of `stream`'s terminal."""
    out = stream or sys.stdout
    place = f"…{event.sandbox_id[-4:]}" if event.sandbox_id else ""
    if event.seq is not None:
        place += f" #{event.seq}"
    text = event_summary(event)
    told = f"{event.at.astimezone():%H:%M:%S}  {event.source:<8}  {place:<11}  {event.kind:<18}  {text}"
    words = printable(told).rstrip()  # the kind is the agent's own word
    if out.isatty():
        words = shortened(words, terminal_columns())
    colour = COLOURS[event.source]
    return click.style(words, fg=colour) if colour and coloured(out) else words


def event_summary(event: FeedEvent) -> str:
    """The most telling few words of an event's body, on one line."""
    body = msgspec.json.decode(event.body or b"null")
    if event.source == "task" and event.kind in _OF_STATE:
        told = _first_line(body, _OF_STATE[event.kind])
    else:
        told = _told(body)
    if event.source == "task" and event.state and event.state != event.kind:
        told = f"{event.state}  {told}".rstrip()
    return shortened(one_line(told), MOST_CHARS)


def _first_line(body: object, names: tuple[str, ...]) -> str:
    """Of the first of these fields that says something."""
    words = (_inside(body, name) for name in names)
    texts = (word.strip() for word in words if isinstance(word, str))
    return next((text.splitlines()[0] for text in texts if text), "")


def _told(body: object) -> str:
    action, observation = _inside(body, "action"), _inside(body, "observation")
    if action is not None:  # rather than the thought before it
        words = (_inside(action, name) for name in ("command", "path"))
        return " ".join(word for word in words if isinstance(word, str)) or _telling(action, _DEPTH)
    seen = _inside(observation, "content")  # rather than the command, which has been seen
    return _telling(body if seen is None else seen, _DEPTH)


def _inside(body: object, name: str) -> object:
    return cast("dict[str, object]", body).get(name) if isinstance(body, dict) else None


def _telling(body: object, depth: int) -> str:
    """The first string under a telling name, looking there first and then below every other name."""
    if isinstance(body, str):
        return body
    if not depth:
        return ""
    parts: list[object] = []
    if isinstance(body, list):
        parts += cast("list[object]", body)
    elif isinstance(body, dict):
        fields = cast("dict[str, object]", body)
        parts += [fields.get(name) for name in _TELLING]
        parts += [part for name, part in fields.items() if name not in _TELLING and not isinstance(part, str)]
    return next(filter(None, (_telling(part, depth - 1) for part in parts)), "")
