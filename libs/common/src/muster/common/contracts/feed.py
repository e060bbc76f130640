"""What `GET /api/v1/tasks/{task_id}/events` sends: one `FeedEvent` as the `data` of each server-sent event.

The event's name is its `source`; its `id` is an opaque position to resume after (`Last-Event-ID` or `?after=`).
Beside these: `reset` (the position was unknown: everything follows from the beginning), `end` (the task has ended and
all was sent; its data is an `EndOfFeed`), `problem` (why the feed stops before its end; its data is a `Problem`).
"""

from datetime import datetime
from typing import Literal

import msgspec

from muster.common.contract import Message, raw
from muster.common.contracts.agents import AgentChanged

FeedSource = Literal["task", "log", "guardian"]


class FeedEvent(Message, omit_defaults=True):
    """One event of a task, of one of its sandboxes' logs, or of the guardian about it.

    `log`: with `seq` it is one event of the agent (`origin` is the event's own source), without it a frame of the log.
    """

    source: FeedSource
    kind: str
    at: datetime
    task_id: str
    sandbox_id: str | None = None
    epoch: int | None = None
    agent_id: str | None = None
    event_id: str | None = None
    version: int | None = None
    state: str | None = None
    seq: int | None = None
    seqs: list[int] = []
    origin: str | None = None
    body: msgspec.Raw = raw(b"null")


class EndOfFeed(Message):
    """The task's last state."""

    task_id: str
    state: str


class AgentFeedPage(Message):
    """An agent's events, oldest first; `next_cursor` continues after the last one, and is valid for events to come."""

    agent_id: str
    events: list[AgentChanged]
    next_cursor: str
