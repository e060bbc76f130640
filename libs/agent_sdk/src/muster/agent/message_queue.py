"""The queue of messages to a process-mode agent: in order, each `message_id` once, at most 100 waiting.

An open queue passes messages to the agent. When one agent is replaced by another in the same process, the queue is
shut, and waiting messages are kept for the next agent. If the process stops (`for_good`), waiting messages are refused.
The queue is in memory. If the process dies, waiting messages are lost, and the manager reports this to their senders.

    take --> waiting --open and its turn--> agent answers --> answered | failed
                |                              |
                +-- shut: waits for the next   +-- shut: may run `grace_s` seconds, is then cancelled
                    agent; for good: refused       and reported as `Unavailable`
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from muster.agent.activity import AgentActivity
from muster.agent.base import AgentMessage
from muster.common.contract import encode
from muster.common.contracts.limits import LONGEST_ANSWER_BYTES
from muster.common.faults import AgentFailed, Fault, TooMany, Transient, Unavailable

MOST_WAITING = 100
"""Most messages that wait for the agent at the same time."""
_REMEMBERED = 1_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MessageOutcome:
    """The result of a message: the answer of the agent, or the fault that is reported to the sender.

    `answer_bytes` is the size of the whole answer, if `answer` is only its first part.
    """

    answer: str | None = None
    fault: Fault | None = None
    answer_bytes: int | None = None

    @classmethod
    def of(cls, answer: object) -> "MessageOutcome":
        """Return the outcome of an agent's answer; cut a long answer. Raises `TypeError` if it cannot be JSON."""
        if answer is None:
            return cls()
        text = (answer if isinstance(answer, str) else encode(answer).decode()).encode(errors="replace")
        if len(text) <= LONGEST_ANSWER_BYTES:
            return cls(answer=text.decode())
        first = text[:LONGEST_ANSWER_BYTES].decode(errors="ignore")
        note = f"[cut: the answer has {len(text):,} bytes, of which {LONGEST_ANSWER_BYTES:,} are kept]"
        return cls(answer=f"{first}\n{note}", answer_bytes=len(text))


class MessageQueue:
    """Passes messages to the agent while the queue is open. Between two agents of one process, messages wait."""

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
        """Queue a message and return the task with its outcome. A known `message_id` returns its earlier task.

        Raises `TooMany` if 100 messages wait, and `Unavailable` if the queue is closed permanently.
        """
        if known := self._by_message_id.get(message.message_id):
            return known
        if self._closed:
            raise Unavailable("the agent is stopping and accepts no more messages; send the message again when it runs")
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
        """Stop passing messages to the agent, and wait for its current answers. Cancels them after `grace_s` seconds.

        With `for_good`, the process starts no other agent, so all waiting and later messages are refused.
        """
        self._is_open.clear()
        if not await self._idle_within(grace_s):
            for scope in self._scopes:
                scope.reschedule(0)
            if not await self._idle_within(grace_s):
                logger.warning("agent ignored the cancellation of a message")
        if for_good:
            self._closed = True
            self._is_open.set()  # `_when_open` now refuses every waiting message.

    async def _idle_within(self, grace_s: float) -> bool:
        try:
            async with asyncio.timeout(grace_s):
                return await self._idle.wait()
        except TimeoutError:
            return False

    async def _answer(self, message: AgentMessage) -> MessageOutcome:
        """Return the outcome of a message.

        Must not raise, because an error in the TaskGroup cancels all other tasks.
        """
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
                    return MessageOutcome.of(await self._on_message(message))
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                logger.warning(
                    "agent raised CancelledError for a message", extra={"fields": {"message_id": message.message_id}}
                )
                return MessageOutcome(fault=AgentFailed.by(error))
            except Exception as error:
                if scope.expired():
                    return MessageOutcome(fault=Unavailable("the agent was stopped before it had answered"))
                if isinstance(error, Fault | Transient):
                    return MessageOutcome(fault=Fault.of(error))
                logger.exception(
                    "agent failed to answer a message", extra={"fields": {"message_id": message.message_id}}
                )
                return MessageOutcome(fault=AgentFailed.by(error))

    @contextmanager
    def _in_progress(self) -> Generator[asyncio.Timeout]:
        """Count the message as in progress. Yield the timeout by which `shut` cancels the message."""
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
        """Forget the oldest finished messages. If such a message is sent again, the agent receives it again."""
        while len(self._by_message_id) > _REMEMBERED and next(iter(self._by_message_id.values())).done():
            self._by_message_id.popitem(last=False)
