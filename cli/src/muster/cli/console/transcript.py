"""Converts the feed of a task to a transcript: thoughts, commands, outputs, messages, steering and state changes."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import msgspec

from muster.cli.console import agent_events
from muster.cli.console.event_line import event_summary
from muster.cli.console.large_bodies import large_body_text
from muster.cli.console.model_failures import failed_call, failure_line
from muster.cli.console.network_connections import network_connection
from muster.common.contracts.feed import FeedEvent

EntryKind = Literal[
    "task", "sandbox", "thought", "command", "output", "message", "steering", "guardian", "error", "result", "event"
]
_STEERING = "muster:"
"""Beginning of the field `sender` of a steering message; the id of the message follows."""
_DELIVERED = re.compile(r"\A\[muster:\w+\]\s*")
"""The id with which a delivered steering message begins."""
_SKIPPED = frozenset({"SystemPromptEvent", "ConversationStateUpdateEvent", "LLMCompletionLogEvent", "TokenEvent"})
"""Events of an agent that a reader of a transcript does not need."""
_CAUSED_STATES = frozenset({"queued", "retrying", "failed", "cancelled", "escalated"})
_CAUSE_FIELDS = ("reason", "error", "validation")
_SKIPPED_FRAMES = frozenset({"seen", "closed"})
_SKIPPED_STAGES = frozenset({"stored", "delivered", "seen"})
"""Stages of a steering message. The entry of the delivered message itself follows."""


class TranscriptEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a transcript. `position` is the position of its event in the task's feed."""

    position: str
    at: datetime
    kind: EntryKind
    text: str
    attempt: int | None = None
    sandbox_id: str | None = None
    exit_code: int | None = None


def transcript_entries(event: FeedEvent, position: str) -> list[TranscriptEntry]:
    """Return the entries for one event of a feed, which may be none. An action gives its thought and its command."""
    match event.source:
        case "task":
            parts = _task_parts(event)
        case "guardian":
            parts = _guardian_parts(event)
        case _:
            if event.seq is None:
                parts = _log_parts(event)
            elif large := large_body_text(event):
                parts = _large_parts(event, large)
            else:
                parts = _agent_parts(event)
    code = agent_events.exit_code(agent_events.event_body(event)) if event.kind == "ObservationEvent" else None
    return [
        TranscriptEntry(
            position,
            event.at,
            kind,
            text.rstrip(),
            attempt=event.epoch,
            sandbox_id=event.sandbox_id,
            exit_code=code,
        )
        for kind, text in parts
    ]


_Parts = Iterator[tuple[EntryKind, str]]


def _task_parts(event: FeedEvent) -> _Parts:
    body = agent_events.event_body(event)
    # The summary of a run that ended well is in the entry `result`, and other fields may be of an earlier attempt.
    names = _CAUSE_FIELDS if event.kind in _CAUSED_STATES else ()
    why = next(filter(None, (agent_events.text_of(body.get(name)) for name in names)), "")
    yield "task", f"{event.kind}: {why}" if why else event.kind


def _guardian_parts(event: FeedEvent) -> _Parts:
    body = agent_events.event_body(event)
    match event.kind:
        case "issued":
            yield "guardian", f"steering message of {body.get('sender')}: {agent_events.text_of(body.get('text'))}"
        case "outcome":
            yield "guardian", f"the steering message was {body.get('outcome')}"
        case kind if kind not in _SKIPPED_STAGES:
            yield "guardian", f"{kind}: {event_summary(event)}"
        case _:
            return


def _log_parts(event: FeedEvent) -> _Parts:
    """Yield the entries for a frame without events, such as the start of a sandbox or the result of a run."""
    body = agent_events.event_body(event)
    match event.kind:
        case "opened":
            words = [str(body[name]) for name in ("package", "model", "isolation") if body.get(name)]
            yield "sandbox", f"started ({', '.join(words)})" if words else "started"
        case "finished":
            why = agent_events.text_of(body.get("error")) or agent_events.text_of(body.get("summary"))
            yield "result", f"{body.get('outcome')}: {why}" if why else str(body.get("outcome"))
        case _ if failed := failed_call(event):
            yield "error", failure_line(failed)
        case _ if made := network_connection(event):
            yield "sandbox", f"connection {made.sentence}"
        case kind if kind not in _SKIPPED_FRAMES:
            yield "sandbox", f"{kind}: {event_summary(event)}"
        case _:
            return


def _agent_parts(event: FeedEvent) -> _Parts:
    body = agent_events.event_body(event)
    match event.kind:
        case "ActionEvent":
            if thought := agent_events.thought(body):
                yield "thought", thought
            # A `finish` action contains the final message, and a `think` action only the thought.
            if final := agent_events.final_message(body):
                yield "message", f"agent: {final}"
            elif body.get("tool_name") != "think":
                yield "command", f"{agent_events.command(body)}\n{agent_events.change(body)}"
        case "ObservationEvent":
            if body.get("tool_name") not in ("finish", "think"):
                yield "output", agent_events.output(body)
        case "AgentErrorEvent" | "ConversationErrorEvent" | "UserRejectObservation":
            yield "error", agent_events.output(body)
        case "MessageEvent":
            yield _message_part(event, body)
        case kind if kind not in _SKIPPED:
            yield "event", f"{kind} {event_summary(event)}"
        case _:
            return


def _large_parts(event: FeedEvent, large: str) -> _Parts:
    """Yield the entry for an event whose body is kept by reference, with the text `large` in place of the body."""
    if event.kind == "MessageEvent":
        yield "message", f"{_author(event)}: {large}"
    elif event.kind not in _SKIPPED:
        yield "event", f"{event.kind} {large}"


def _message_part(event: FeedEvent, body: agent_events.Body) -> tuple[EntryKind, str]:
    text = agent_events.message(body)
    if agent_events.text_of(body.get("sender")).startswith(_STEERING):
        return "steering", f"the agent received: {_DELIVERED.sub('', text)}"
    return "message", f"{_author(event)}: {text}"


def _author(event: FeedEvent) -> str:
    return event.origin or "unknown"
