"""Messages to a process-mode agent: in order, each once, never more of them than can wait."""

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
_REMEMBERED = 1_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MessageOutcome:
    """What became of a message."""

    answer: str | None = None
    fault: Fault | None = None


class Mailbox:
    """Hands messages to the agent while it is open; what comes while it is shut waits for the next agent."""

    def __init__(
        self,
        on_message: Callable[[AgentMessage], Awaitable[str | None]],
        activity: AgentActivity,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._on_message, self._activity, self._tasks = on_message, activity, tasks
        self._known: OrderedDict[str, asyncio.Task[MessageOutcome]] = OrderedDict()
        self._turn, self._is_open, self._quiet = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._quiet.set()
        self._in_hand = set[asyncio.Timeout]()
        self._over = False
        self.waiting = self.answered = self.failed = 0

    def take(self, told: AgentMessage) -> asyncio.Task[MessageOutcome]:
        """The task that answers it: the same one for the same `message_id`. Raises `TooMany` or `Unavailable`."""
        if known := self._known.get(told.message_id):
            return known
        if self._over:
            raise Unavailable("the agent is stopping and takes no more messages")
        if self.waiting >= MOST_WAITING:
            raise TooMany(f"{self.waiting} messages wait for this agent; try again when it has answered some")
        self.waiting += 1
        task = self._known[told.message_id] = self._tasks.create_task(self._answer(told))
        self._forget()
        return task

    def open(self) -> None:
        """There is an agent now."""
        self._is_open.set()

    async def shut(self, grace_s: float, *, for_good: bool) -> None:
        """Hands over nothing more, and returns when the agent has nothing in hand; cut short after `grace_s`."""
        self._is_open.clear()
        if not await self._quiet_within(grace_s):
            for scope in self._in_hand:
                scope.reschedule(0)
            if not await self._quiet_within(grace_s):
                logger.warning("the agent does not let go of a message")
        if for_good:
            self._over = True
            self._is_open.set()  # who waits is answered: there will be no other agent

    async def _quiet_within(self, grace_s: float) -> bool:
        try:
            async with asyncio.timeout(grace_s):
                return await self._quiet.wait()
        except TimeoutError:
            return False

    async def _answer(self, told: AgentMessage) -> MessageOutcome:
        """Never raises: in a TaskGroup that would cancel every neighbour."""
        if told.urgent:
            return await self._when_open(told)
        async with self._turn:
            return await self._when_open(told)

    async def _when_open(self, told: AgentMessage) -> MessageOutcome:
        await self._is_open.wait()
        self.waiting -= 1
        if self._over:
            return MessageOutcome(fault=Unavailable("the agent was stopped before it could answer"))
        outcome = await self._heard(told)
        self.answered += outcome.fault is None
        self.failed += outcome.fault is not None
        return outcome

    async def _heard(self, told: AgentMessage) -> MessageOutcome:
        with self._at_work() as scope:
            try:
                async with scope:
                    return MessageOutcome(answer=await self._on_message(told))
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                logger.warning("the agent cancelled itself", extra={"fields": {"message_id": told.message_id}})
                return MessageOutcome(fault=Fault.of(RuntimeError()))
            except Exception as error:
                if scope.expired():
                    return MessageOutcome(fault=Unavailable("the agent was stopped before it had answered"))
                if not isinstance(error, Fault | Transient):
                    logger.exception("a message was not answered", extra={"fields": {"message_id": told.message_id}})
                return MessageOutcome(fault=Fault.of(error))

    @contextmanager
    def _at_work(self) -> Generator[asyncio.Timeout]:
        """A scope that `shut` can end."""
        scope = asyncio.timeout(None)
        self._in_hand.add(scope)
        self._quiet.clear()
        self._activity.show(state="running")
        try:
            yield scope
        finally:
            self._in_hand.discard(scope)
            if not self._in_hand:
                self._quiet.set()
                if self._activity.state == "running":
                    self._activity.show(state="idle", busy="none")

    def _forget(self) -> None:
        """The oldest that are done; who repeats one of these is answered anew."""
        while len(self._known) > _REMEMBERED and next(iter(self._known.values())).done():
            self._known.popitem(last=False)
