"""The items that a feed yields: typed events, and messages about the feed itself."""

from dataclasses import dataclass

from muster.common.contract import decode
from muster.common.contracts.agent_logs import AgentLogPage
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.feed import FeedEvent

NOW = "now"
"""Feed position that selects only future events. A server that does not know it sends all events."""


@dataclass(frozen=True)
class FeedKind[E]:
    """A kind of feed: the Python type of its events, and the `event` names of its server-sent events."""

    event_type: type[E]
    names: frozenset[str]


TASK_FEED = FeedKind(FeedEvent, frozenset({"task", "log", "guardian"}))
AGENT_FEED = FeedKind(AgentChanged, frozenset({"agent"}))
LOG_FEED = FeedKind(AgentLogPage, frozenset({"lines"}))


@dataclass(frozen=True)
class FeedItem[E]:
    """One item of a feed.

    `name` is the event's type or one of these: `reset` (the API does not know the reader's position and sends all
    events from the beginning), `end` (the feed is complete) and, if requested, `open` (a connection was opened).
    """

    name: str
    position: str
    """The position of the feed after this item. Store it, and pass it as `after` to resume there; empty: the start."""
    body: bytes
    """The item's JSON as the API sent it."""
    kind: FeedKind[E]

    @property
    def event(self) -> E | None:
        """The event in the item; None if the item is about the feed. Raises `InvalidMessage` for an invalid body."""
        return decode(self.body, self.kind.event_type) if self.name in self.kind.names else None
