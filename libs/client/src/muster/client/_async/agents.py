"""Calls the API's routes for agents."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Unpack

from msgspec import to_builtins

from muster.client._async.connection import AsyncApiConnection
from muster.client._async.feeds import read_feed
from muster.client._async.paging import all_pages
from muster.client.errors import ApiTimeoutError, UnexpectedReplyError
from muster.client.feed_items import AGENT_FEED, LOG_FEED, NOW, FeedItem
from muster.client.filters import AgentFilters
from muster.client.http_messages import filter_query, idempotency, part
from muster.common.contracts.agent_bodies import AgentChange, AgentSearch, AgentText, NewAgent
from muster.common.contracts.agent_health import AgentMetricsView, AgentStatusView
from muster.common.contracts.agent_logs import AgentLogPage
from muster.common.contracts.agent_messages import Handed, message_outcome
from muster.common.contracts.agent_registry import AgentPage, Choice
from muster.common.contracts.agents import AgentChanged, AgentView
from muster.common.contracts.feed import AgentFeedPage
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE

AGENTS = "/api/v1/agents"


class AsyncAgentCalls:
    """The API calls about agents, available as `client.agents`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._connection, self._call = connection, connection.call

    async def list(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None, **filters: Unpack[AgentFilters]
    ) -> AgentPage:
        """Return a page of matching agents, newest first. Its `next_cursor` is the `cursor` of the next page."""
        query = [*_query(filters), ("limit", limit), ("cursor", cursor)]
        return await self._call("GET", AGENTS, AgentPage, query=query)

    async def all(self, **filters: Unpack[AgentFilters]) -> AsyncGenerator[AgentView]:
        """Yield all agents that match the filters, newest first."""
        async for page in all_pages(lambda cursor: self.list(limit=LARGEST_PAGE, cursor=cursor, **filters)):
            for agent in page.agents:
                yield agent

    async def register(self, new: NewAgent, *, idempotency_key: str | None = None) -> AgentView:
        """Register an agent under a name. The agent stays stopped until `start` is called.

        `idempotency_key` works as in `tasks.submit`. Raises `ApiStatusError` with status 409 if the name is taken.
        """
        return await self._call("POST", AGENTS, AgentView, body=new, headers=idempotency(idempotency_key))

    async def get(self, agent_id: str) -> AgentView:
        """Return the agent with this id."""
        return await self._call("GET", _path(agent_id), AgentView)

    async def update(self, seen: AgentView, change: AgentChange) -> AgentView:
        """Set the given fields of an agent.

        Raises `ApiStatusError` with status 412 if the agent was changed after the caller had read it as `seen`.
        """
        return await self._call("PUT", _path(seen.agent_id), AgentView, body=change, headers=_if_match(seen))

    async def delete(self, seen: AgentView) -> None:
        """Delete a stopped agent.

        Raises `ApiStatusError` with status 412 if the agent was changed after the caller had read it as `seen`.
        """
        await self._call("DELETE", _path(seen.agent_id), object, headers=_if_match(seen))

    async def start(self, agent_id: str) -> AgentView:
        """Start an agent and keep it running. Returns when the new desired state is stored."""
        return await self._call("POST", f"{_path(agent_id)}/start", AgentView)

    async def stop(self, agent_id: str) -> AgentView:
        """Stop an agent and keep it stopped. Returns when the new desired state is stored."""
        return await self._call("POST", f"{_path(agent_id)}/stop", AgentView)

    async def restart(self, agent_id: str) -> AgentView:
        """Replace an agent's process by a new one. Returns when the new desired state is stored."""
        return await self._call("POST", f"{_path(agent_id)}/restart", AgentView)

    async def message(self, agent_id: str, text: str, *, wait_s: float | None = None) -> Handed:
        """Send a text to a running agent, and return the state of the message with the agent's answer, if there is one.

        The `agent` of the result has the fields of a `MessageResult`. An agent that needs more than 1.5 s has the state
        `accepted`. With `wait_s`, the call then follows the agent's feed until the message has another state, which is
        `answered`, `failed`, or `lost` if the agent's process ended. Raises `ApiTimeoutError` after `wait_s` seconds.
        The answer is then still an event of the agent.
        """
        if wait_s is None:
            return await self._send(agent_id, text)
        ends_at_s = self._connection.options.monotonic() + wait_s
        # The position from before the message, so that the outcome follows it, even if the feed's connection is cut.
        query: list[tuple[str, object]] = [("after", NOW), ("limit", 1)]
        before = await self._call("GET", f"{_path(agent_id)}/events", AgentFeedPage, query=query)
        sent = await self._send(agent_id, text)
        if sent.agent.get("state") != "accepted":
            return sent
        return await self._outcome(sent, before.next_cursor, ends_at_s)

    async def _send(self, agent_id: str, text: str) -> Handed:
        return await self._call("POST", f"{_path(agent_id)}/messages", Handed, body=AgentText(text=text))

    async def _outcome(self, sent: Handed, after: str, ends_at_s: float) -> Handed:
        """Follow the agent's feed until it contains the outcome of a message, and return the message with it."""
        path, message_id = f"{_path(sent.agent_id)}/events", sent.message_id
        feed = read_feed(self._connection, path, AGENT_FEED, after, ends_at_s=ends_at_s)
        try:
            async with aclosing(feed) as items:
                async for item in items:
                    outcome = message_outcome(item.event)
                    if outcome is not None and outcome.message_id == message_id:
                        return Handed(agent_id=sent.agent_id, message_id=message_id, agent=to_builtins(outcome))
        except ApiTimeoutError as error:
            if self._connection.options.monotonic() < ends_at_s:
                raise
            raise ApiTimeoutError(
                f"agent {sent.agent_id} has not answered message {message_id} in time; it still works on the message, "
                "and its answer will be an event of the agent"
            ) from error
        raise UnexpectedReplyError(f"agent {sent.agent_id} was deleted before it answered message {message_id}")

    async def status(self, agent_id: str) -> AgentStatusView:
        """Return the agent's state. If the agent has a process, the API asks this process during the call."""
        return await self._call("GET", f"{_path(agent_id)}/status", AgentStatusView)

    async def metrics(self, agent_id: str) -> AgentMetricsView:
        """Return the metrics that the agent reported last, and the metrics that Muster itself counts."""
        return await self._call("GET", f"{_path(agent_id)}/metrics", AgentMetricsView)

    async def logs(self, agent_id: str, *, cursor: str | None = None, limit: int | None = None) -> AgentLogPage:
        """Return up to `limit` log lines that the agent wrote after `cursor`; without a cursor, its last log lines."""
        query = [("cursor", cursor), ("limit", limit)]
        return await self._call("GET", f"{_path(agent_id)}/logs", AgentLogPage, query=query)

    def follow_logs(self, agent_id: str, cursor: str | None = None) -> AsyncGenerator[FeedItem[AgentLogPage]]:
        """Yield pages of the log lines after `cursor`, as soon as the agent writes the lines.

        Without a cursor, the first page contains the last stored lines. The errors are those of `tasks.events`.
        """
        return read_feed(self._connection, f"{_path(agent_id)}/logs", LOG_FEED, cursor)

    def events(
        self, agent_id: str, after: str | None = None, *, follow: bool = True, openings: bool = False
    ) -> AsyncGenerator[FeedItem[AgentChanged]]:
        """Yield the state changes of an agent until the agent is deleted, each change once and in order.

        The arguments and errors are those of `tasks.events`.
        """
        return read_feed(
            self._connection, f"{_path(agent_id)}/events", AGENT_FEED, after, follow=follow, openings=openings
        )

    async def find(self, wanted: AgentSearch) -> Choice:
        """Return the agent that the API chooses for the criteria `wanted`, and why it rejected each other agent."""
        return await self._call("POST", f"{AGENTS}/find", Choice, body=wanted)


def _path(agent_id: str) -> str:
    return f"{AGENTS}/{part(agent_id)}"


def _query(filters: AgentFilters) -> list[tuple[str, object]]:
    return filter_query({name: value for name, value in filters.items() if name != "labels"}, filters.get("labels"))


def _if_match(seen: AgentView) -> dict[str, str]:
    return {"If-Match": f'"{seen.version}"'}
