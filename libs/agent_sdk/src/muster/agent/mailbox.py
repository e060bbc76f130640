"""Queue of messages to a process-mode agent: in order, each `message_id` once, and at most 100 waiting.

    take --> waiting --open and its turn--> in the agent's hands --> answered | failed
                |                                |
                +-- shut: waits for the next     +-- shut: has `grace_s` to end, is then cancelled
                    agent; for good: refused         and reported as `Unavailable`

The queue is in memory: if the process dies, waiting messages are lost, and their senders get no answer.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from muster.agent.activity import AgentActivity
from muster.agent.base import AgentMessage
from muster.common.faults import Fault, TooMany, Transient, Unavailable

MOST_WAITING = 100
"""Most messages that wait for the agent at the same time."""
_REMEMBERED = 1_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MessageOutcome:
    """The result of a message: the answer of the agent, or the fault that is reported to the sender."""

    answer: str | None = None
    fault: Fault | None = None


class Mailbox:
    """Passes messages to the agent while open. While shut, between two agents of this process, messages wait."""

    def __init__(
        self,
        on_message: Callable[[AgentMessage], Awaitable[str | None]],
        activity: AgentActivity,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._on_message, self._activity, self._tasks = on_message, activity, tasks
        self._by_message_id: OrderedDict[str, asyncio.Task[MessageOutcome]] = OrderedDict()
        self._order, self._is_open, self._idle = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._scopes = set[asyncio.Timeout]()
        self._closed = False
        self.waiting = self.answered = self.failed = 0

    def take(self, message: AgentMessage) -> asyncio.Task[MessageOutcome]:
        """Queue a message; return the task with its outcome. A known `message_id` returns its earlier task.

        Raises `TooMany` if 100 messages wait, and `Unavailable` if the mailbox is shut for good.
        """
        if known := self._by_message_id.get(message.message_id):
            return known
        if self._closed:
            raise Unavailable("the agent is stopping and takes no more messages; send the message again when it runs")
        if self.waiting >= MOST_WAITING:
            raise TooMany(f"{self.waiting} messages already wait for this agent; try again later")
        self.waiting += 1
        task = self._by_message_id[message.message_id] = self._tasks.create_task(self._answer(message))
        self._forget()
        return task

    def open(self) -> None:
        """Start to pass messages to the agent."""
        self._is_open.set()

    async def shut(self, grace_s: float, *, for_good: bool) -> None:
        """Pass no more messages, and wait for the current ones. They are cancelled after `grace_s` seconds.

        `for_good` also refuses all waiting and later messages: no other agent will follow.
        """
        self._is_open.clear()
        if not await self._idle_within(grace_s):
            for scope in self._scopes:
                scope.reschedule(0)
            if not await self._idle_within(grace_s):
                logger.warning("agent ignores the cancellation of a message")
        if for_good:
            self._closed = True
            self._is_open.set()  # lets the waiting messages continue, so that each is refused

    async def _idle_within(self, grace_s: float) -> bool:
        try:
            async with asyncio.timeout(grace_s):
                return await self._idle.wait()
        except TimeoutError:
            return False

    async def _answer(self, message: AgentMessage) -> MessageOutcome:
        """Return the outcome. Must not raise: in a TaskGroup an exception cancels all other tasks."""
        if message.urgent:
            return await self._when_open(message)
        async with self._order:
            return await self._when_open(message)

    async def _when_open(self, message: AgentMessage) -> MessageOutcome:
        await self._is_open.wait()
        self.waiting -= 1
        if self._closed:
            return MessageOutcome(fault=Unavailable("the agent was stopped before it could answer"))
        outcome = await self._call_agent(message)
        self.answered += outcome.fault is None
        self.failed += outcome.fault is not None
        return outcome

    async def _call_agent(self, message: AgentMessage) -> MessageOutcome:
        with self._in_progress() as scope:
            try:
                async with scope:
                    return MessageOutcome(answer=await self._on_message(message))
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                logger.warning(
                    "agent raised CancelledError for a message", extra={"fields": {"message_id": message.message_id}}
                )
                return MessageOutcome(fault=Fault.of(RuntimeError()))
            except Exception as error:
                if scope.expired():
                    return MessageOutcome(fault=Unavailable("the agent was stopped before it had answered"))
                if not isinstance(error, Fault | Transient):
                    logger.exception(
                        "agent failed to answer a message", extra={"fields": {"message_id": message.message_id}}
                    )
                return MessageOutcome(fault=Fault.of(error))

    @contextmanager
    def _in_progress(self) -> Generator[asyncio.Timeout]:
        """Yield a timeout that `shut` can expire, and count the message as in progress."""
        scope = asyncio.timeout(None)
        self._scopes.add(scope)
        self._idle.clear()
        self._activity.show(state="running")
        try:
            yield scope
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._idle.set()
                if self._activity.state == "running":
                    self._activity.show(state="idle", busy="none")

    def _forget(self) -> None:
        """Forget the oldest finished messages. If one is sent again, the agent gets it a second time."""
        while len(self._by_message_id) > _REMEMBERED and next(iter(self._by_message_id.values())).done():
            self._by_message_id.popitem(last=False)
