"""Derives from the events of a task what the task waits for now: the queue, the model, a command, or a test.

`after_event` is a pure function that folds the events of the task's feed one after another:
```
queued ─▶ the sandbox starts ─▶ the worker starts ─▶ waiting for the model ◀─▶ running: COMMAND
                                                              └─▶ checking the result ─▶ ended
```
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from muster.cli.console import agent_events
from muster.cli.console.model_failures import failed_call
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.tasks import FEED_ENDS
from muster.common.terminal import one_line

_OF_STATE: Mapping[str, str] = {
    "blocked": "blocked by the tasks that it depends on",
    "queued": "queued",
    "retrying": "queued for a new attempt",
    "assigned": "the sandbox starts",
    "validating": "checking the result",
}
_NO_MODEL = "none"
"""The model of an attempt whose package calls no model."""
_MODEL_IS_NEXT = frozenset({"ObservationEvent", "AgentErrorEvent", "UserRejectObservation", "MessageEvent"})
"""Events of an agent after which the agent asks the model."""


class AwaitedWork(msgspec.Struct, frozen=True):
    """What a task waits for, and since when; `since` is None before the first event."""

    doing: str = "waiting for the first event"
    since: datetime | None = None
    attempt: int | None = None
    model: str = ""
    ended: bool = False


def after_event(before: AwaitedWork, event: FeedEvent) -> AwaitedWork:
    """Return what the task waits for after this event. An event that changes nothing keeps the time of the last one."""
    now = msgspec.structs.replace(before, attempt=event.epoch or before.attempt)
    match event.source:
        case "task":
            return _after_task_event(now, event)
        case "log":
            return _after_frame(now, event) if event.seq is None else _after_agent_event(now, event)
        case _:
            return now


def status_text(work: AwaitedWork, now: datetime) -> str:
    """Return the status line, such as `attempt 1 · waiting for the model openai/x · 14 s`, on one clean line."""
    since_s = 0 if work.since is None else max(int((now - work.since).total_seconds()), 0)
    return f"{work.doing} · {_duration(since_s)}"


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _after_task_event(before: AwaitedWork, event: FeedEvent) -> AwaitedWork:
    if event.state in FEED_ENDS:
        return msgspec.structs.replace(before, doing="waiting for the last events", since=event.at, ended=True)
    # `running` follows from the sandbox's log, whose own events say more.
    doing = _OF_STATE.get(event.state or "")
    return before if doing is None else _changed(before, doing, event)


def _after_frame(before: AwaitedWork, event: FeedEvent) -> AwaitedWork:
    match event.kind:
        case "opened":
            model = one_line(agent_events.text_of(agent_events.event_body(event).get("model")))
            begun = msgspec.structs.replace(before, model=model or before.model)
            return _changed(begun, _numbered(begun, "the worker starts"), event)
        case "finished":
            return _changed(before, "checking the result", event)
        case _ if failed := failed_call(event):
            doing = "waiting to call it again" if failed.retry_at else "no further call"
            return _changed(
                before, _numbered(before, f"the model {failed.model} failed (try {failed.tries}), {doing}"), event
            )
        case "fenced":
            return _changed(before, "waiting for a new attempt", event)
        case _:
            return before


def _after_agent_event(before: AwaitedWork, event: FeedEvent) -> AwaitedWork:
    if event.kind == "ActionEvent" and agent_events.final_message(agent_events.event_body(event)):
        return _changed(before, _numbered(before, "the agent ends"), event)
    if event.kind == "ActionEvent":
        command = one_line(agent_events.command(agent_events.event_body(event))).removeprefix("$ ")
        return _changed(before, f"running: {command}", event)
    if event.kind in _MODEL_IS_NEXT:
        next_one = "the agent" if before.model == _NO_MODEL else f"the model {before.model}".rstrip()
        return _changed(before, _numbered(before, f"waiting for {next_one}"), event)
    return before


def _numbered(work: AwaitedWork, doing: str) -> str:
    return doing if work.attempt is None else f"attempt {work.attempt} · {doing}"


def _changed(before: AwaitedWork, doing: str, event: FeedEvent) -> AwaitedWork:
    since = before.since if doing == before.doing else event.at
    return msgspec.structs.replace(before, doing=doing, since=since)
