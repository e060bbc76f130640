"""What the manager asks of a process-mode agent (`agent.<id>.command`, `agent.<id>.query`), answered and told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from muster.common.clock import Clock
from muster.common.contract import decode, encode
from muster.common.contracts.agent_wire import AgentAnswered, AgentOrder, AgentQuestion, AgentResponse, ProcessHandoff
from muster.common.faults import Conflict, Fault, InvalidMessage, TooLarge

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus, Incoming, Subscription

MAX_ANSWER_BYTES = 900 << 10
"""Below the smallest `max_payload` a server usually has."""
_AT_ONCE = 32

logger = logging.getLogger(__name__)

Result = dict[str, Any]
Answers = Mapping[str, Callable[[AgentOrder], Awaitable[Result]]]
"""By command. An answer comes within its own deadline, which is seconds."""


class Named(msgspec.Struct):
    """What can be read of an order that cannot be read."""

    command: str = ""


class Orders:
    """Answers while it is entered. Every outcome is also published on `agent.<id>.response`."""

    def __init__(self, handoff: ProcessHandoff, bus: "Bus", now: Clock, *, commands: Answers, queries: Answers) -> None:
        self._handoff, self._bus, self._now = handoff, bus, now
        self._commands, self._queries = commands, queries
        self._slots, self._in_flight = asyncio.Semaphore(_AT_ONCE), asyncio.TaskGroup()
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        await self._in_flight.__aenter__()
        for contract, answers in ((AgentOrder, self._commands), (AgentQuestion, self._queries)):
            subject = contract.SUBJECT.replace("{agent_id}", self._handoff.agent_id)
            self._subscriptions.append(await self._bus.subscribe(subject, partial(self._accept, answers)))
        await self._bus.flush()  # the first beat says that it can be asked
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for subscription in self._subscriptions:
                await subscription.drain()
        await self._in_flight.__aexit__(kind, error, trace)

    async def _accept(self, answers: Answers, request: "Incoming") -> None:
        await self._slots.acquire()
        self._in_flight.create_task(self._settle(answers, request))

    async def _settle(self, answers: Answers, request: "Incoming") -> None:
        """May never raise: in a TaskGroup that would cancel every neighbour."""
        try:
            response = await self._response(answers, request)
            if request.reply:
                await self._bus.send(request.reply, encode(response))
            await self.tell(response)
        except Exception:
            logger.exception("an answer was not sent", extra={"fields": {"subject": request.subject}})
        finally:
            self._slots.release()

    async def tell(self, response: AgentResponse) -> None:
        """Publishes an outcome for whoever may listen."""
        await self._bus.publish(
            AgentAnswered(
                agent_id=response.agent_id,
                status=response.status,
                command=response.command,
                result=response.result,
                error=response.error,
                timestamp=response.timestamp,
            )
        )

    def response(self, command: str, outcome: Result | Fault) -> AgentResponse:
        """The user's generic answer."""
        fault = outcome if isinstance(outcome, Fault) else None
        said = (
            {"code": fault.code, "status": fault.status, "detail": str(fault), "field": fault.field} if fault else None
        )
        return AgentResponse(
            status="error" if fault else "success",
            command=command,
            agent_id=self._handoff.agent_id,
            result=None if isinstance(outcome, Fault) else outcome,
            error=said,
            timestamp=self._now(),
        )

    async def _response(self, answers: Answers, request: "Incoming") -> AgentResponse:
        try:
            order = decode(request.data, AgentOrder)
            answer = self._answer_for(order, answers)
            response = self.response(order.command, await answer(order))
            size = len(encode(response))
            if size > MAX_ANSWER_BYTES:
                raise TooLarge(f"the answer has {size} bytes; at most {MAX_ANSWER_BYTES} fit")  # noqa: TRY301 - one path for all refusals
        except Exception as error:
            if not isinstance(error, Fault):
                logger.exception("an order failed", extra={"fields": {"subject": request.subject}})
            return self.response(_command(request.data), Fault.of(error))
        else:
            return response

    def _answer_for(self, order: AgentOrder, answers: Answers) -> Callable[[AgentOrder], Awaitable[Result]]:
        mine = self._handoff
        if order.agent_id != mine.agent_id:
            raise InvalidMessage(f"this is {mine.agent_id}; its subject names it too", field="$.agent_id")
        if order.launch != mine.launch:
            why = f"this is launch {mine.launch} of {mine.agent_id}, not {order.launch}; ask the manager which one runs"
            raise Conflict(why, field="$.launch")
        if (answer := answers.get(order.command)) is None:
            raise InvalidMessage(
                f"there is no {order.command[:80]!r}; there is {', '.join(answers)}", field="$.command"
            )
        return answer


def _command(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=Named).command[:80]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
