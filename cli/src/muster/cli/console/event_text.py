"""Formats an event of a task's feed as text of one or more lines: an error in full, and the thought of an action.

The line itself comes from `event_line`. On a terminal an error is wrapped to the terminal's width, so that its reason
is not cut off. In a pipe each event and each thought is one line.
"""

import sys
from typing import TextIO

import click

from muster.cli.console import agent_events
from muster.cli.console.event_line import COLOURS, coloured, event_line, event_summary
from muster.cli.console.large_bodies import large_body_text
from muster.cli.console.model_failures import failed_call, failure_line
from muster.cli.console.network_connections import network_connection
from muster.cli.console.table import shortened, terminal_columns
from muster.cli.console.wrapping import wrapped_command, wrapped_line
from muster.common.contracts.feed import FeedEvent
from muster.common.terminal import one_line

LONGEST_ERROR, LONGEST_THOUGHT = 4_000, 600
"""Characters of an error and of a thought that are shown. `muster task logs --full` shows complete thoughts."""
_INDENT = " " * 10
"""The lines after the first one begin below the source of the event."""
_SUMMARY_COLUMN = 55
"""The column at which the summary of an event begins."""
_FAILED_STATES = frozenset({"queued", "retrying", "failed", "cancelled", "escalated"})
_WITHOUT_ERROR = frozenset({"ActionEvent", "ObservationEvent", "MessageEvent", "AgentEvent", "opened", "closed"})
"""Kinds of events that report no failure, although their bodies may have a field with the name of an error field."""
_ERROR_FIELDS = ("reason", "error", "detail", "validation")


def event_text(event: FeedEvent, stream: TextIO | None = None, *, thoughts: bool = True) -> str:
    """Return the text of an event for `stream` (by default stdout), without a line end after the last line.

    Without `thoughts`, an action is only one line.
    """
    out = stream or sys.stdout
    columns = terminal_columns() if out.isatty() else None
    if error := _error(event):
        return _with_error(event, error, out, columns)
    line = event_line(event, out, summary=agent_events.relative_paths(event_summary(event), event.sandbox_id))
    if command := large_body_text(event).partition("\n")[2]:
        return "\n".join([line, *wrapped_command(command, _INDENT, columns, first=_INDENT)])
    if thoughts and (thought := shortened(one_line(_thought(event)), LONGEST_THOUGHT)):
        return "\n".join([line, *wrapped_line(f"thought: {thought}", _INDENT, columns, first=_INDENT)])
    return line


def _thought(event: FeedEvent) -> str:
    return agent_events.thought(agent_events.event_body(event)) if event.kind == "ActionEvent" else ""


def _error(event: FeedEvent) -> str:
    """Return the complete error of a failed task, attempt or action on one line; an empty string for other events."""
    if event.source == "task" and event.kind not in _FAILED_STATES:
        return ""
    if event.source == "guardian" or event.kind in _WITHOUT_ERROR:
        return ""
    if failed := failed_call(event):
        return shortened(one_line(failure_line(failed)), LONGEST_ERROR)
    if made := network_connection(event):
        return "" if made.allowed else shortened(one_line(made.sentence), LONGEST_ERROR)
    body = agent_events.event_body(event)
    told = (one_line(agent_events.text_of(body.get(name))) for name in _ERROR_FIELDS)
    return shortened(next(filter(None, told), ""), LONGEST_ERROR)


def _with_error(event: FeedEvent, error: str, out: TextIO, columns: int | None) -> str:
    # The line of the event without its body has the time, the source and the kind, but no summary that could be cut.
    begin = click.unstyle(event_line(event, out, summary="")).ljust(_SUMMARY_COLUMN - 2)
    colour = COLOURS.get(event.source) if coloured(out) else None
    lines = wrapped_line(f"{begin}  {error}", _INDENT, columns)
    return "\n".join(click.style(line, fg=colour) if colour else line for line in lines)
