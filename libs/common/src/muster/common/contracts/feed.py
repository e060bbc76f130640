"""The server-sent events of `GET /api/v1/tasks/{task_id}/events`. The `data` of an event is one `FeedEvent`.

The name of a server-sent event is the `source` of its `FeedEvent`. Its `id` is an opaque position, from which a client
resumes with `Last-Event-ID` or `?after=`. Three other events exist. `reset`: the position was unknown, and all events
follow from the first. `end`: the task has ended and all its events were sent (an `EndOfFeed`). `problem`: the reason
why the feed stops early (a `Problem`).
"""

from datetime import datetime
from typing import Literal

import msgspec

from muster.common.contract import Message, raw
from muster.common.contracts.agents import AgentChanged

FeedSource = Literal["task", "log", "guardian"]


class FeedEvent(Message, omit_defaults=True):
    """One event about a task: of the task itself, of the log of one of its sandboxes, or of the guardian.

    If `source` is `log` and `seq` is set, it is an event of the agent and `origin` is the event's own source. If `seq`
    is not set, it is a frame (one append to the log).
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
    payload: str | None = None
    """The SHA-256 digest of the whole body, if `body` has only its head and tail and the whole body is kept."""


class EndOfFeed(Message):
    """The last event of a feed: the final state of the task."""

    task_id: str
    state: str


class AgentFeedPage(Message):
    """Events of an agent, oldest first. With `next_cursor`, the next query returns later events."""

    agent_id: str
    events: list[AgentChanged]
    next_cursor: str
