"""Answers the manager's requests to a process-mode agent on `agent.<id>.command` and `agent.<id>.query`.

Such a request is called an order. Each order is answered once, with a result or an error. The answer is also published
on `agent.<id>.response`, so that a caller whose request timed out can still read it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from muster.common.clock import Clock
from muster.common.contract import decode, encode
from muster.common.contracts.agent_process import (
    AgentAnswered,
    AgentOrder,
    AgentQuestion,
    AgentResponse,
    ProcessHandoff,
)
from muster.common.faults import Conflict, Fault, InvalidMessage, TooLarge

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus, Incoming, Subscription

MAX_ANSWER_BYTES = 900 << 10
"""Most bytes of an answer: less than 1 MiB, the default `max_payload` of a NATS server."""
_MOST_CONCURRENT = 32
_LONGEST_DETAIL_CHARS = 10_000

logger = logging.getLogger(__name__)

Result = dict[str, Any]
Answers = Mapping[str, Callable[[AgentOrder], Awaitable[Result]]]
"""The functions that answer the manager's requests, by the name of the command. Each must return within seconds."""


class OrderCommand(msgspec.Struct):
    """Reads only the command of an invalid request, so that the error response can contain the command."""

    command: str = ""


class Orders:
    """Answers the manager's requests inside its `async with` block. Publishes each outcome on `agent.<id>.response`."""

    def __init__(self, handoff: ProcessHandoff, bus: "Bus", now: Clock, *, commands: Answers, queries: Answers) -> None:
        self._handoff, self._bus, self._now = handoff, bus, now
        self._commands, self._queries = commands, queries
        self._slots, self._in_flight = asyncio.Semaphore(_MOST_CONCURRENT), asyncio.TaskGroup()
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        await self._in_flight.__aenter__()
        for contract, answers in ((AgentOrder, self._commands), (AgentQuestion, self._queries)):
            subject = contract.SUBJECT.replace("{agent_id}", self._handoff.agent_id)
            self._subscriptions.append(await self._bus.subscribe(subject, partial(self._accept, answers)))
        # After the flush, the agent can receive requests. The first heartbeat must not be sent earlier.
        await self._bus.flush()
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
        self._in_flight.create_task(self._answer_request(answers, request))

    async def _answer_request(self, answers: Answers, request: "Incoming") -> None:
        """Answer one request. Must not raise, because an error in the TaskGroup cancels all other tasks."""
        try:
            response = await self._response(answers, request)
            if request.reply:
                await self._bus.send(request.reply, encode(response))
            await self.publish(response)
        except Exception:
            logger.exception(
                "agent could not send an answer to the manager", extra={"fields": {"subject": request.subject}}
            )
        finally:
            self._slots.release()

    async def publish(self, response: AgentResponse) -> None:
        """Publish the outcome of a request on `agent.<id>.response`."""
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
        """Return the response to a command, with `result` for a result and `error` for a fault."""
        fault = outcome if isinstance(outcome, Fault) else None
        return AgentResponse(
            status="error" if fault else "success",
            command=command,
            agent_id=self._handoff.agent_id,
            result=None if isinstance(outcome, Fault) else outcome,
            error=error_of(fault) if fault else None,
            timestamp=self._now(),
        )

    async def _response(self, answers: Answers, request: "Incoming") -> AgentResponse:
        try:
            order = decode(request.data, AgentOrder)
            answer = self._answer_for(order, answers)
            response = self.response(order.command, await answer(order))
            size = len(encode(response))
            if size > MAX_ANSWER_BYTES:
                raise TooLarge(  # noqa: TRY301 - the except clause below answers all refusals
                    f"the answer to {order.command} has {size} bytes, the limit is {MAX_ANSWER_BYTES}; return less"
                )
        except Exception as error:
            if not isinstance(error, Fault):
                logger.exception(
                    "agent raised an error while answering the manager", extra={"fields": {"subject": request.subject}}
                )
            return self.response(_command(request.data), Fault.of(error))
        else:
            return response

    def _answer_for(self, order: AgentOrder, answers: Answers) -> Callable[[AgentOrder], Awaitable[Result]]:
        handoff = self._handoff
        if order.agent_id != handoff.agent_id:
            why = (
                f"the request is for agent {order.agent_id}, but this is agent {handoff.agent_id}; use its own subject"
            )
            raise InvalidMessage(why, field="$.agent_id")
        if order.launch != handoff.launch:
            why = (
                f"this is launch {handoff.launch} of {handoff.agent_id}, not {order.launch}; "
                "ask the manager which one runs"
            )
            raise Conflict(why, field="$.launch")
        if (answer := answers.get(order.command)) is None:
            raise InvalidMessage(
                f"unknown command {order.command[:80]!r}; use one of {', '.join(answers)}", field="$.command"
            )
        return answer


def error_of(fault: Fault) -> dict[str, Any]:
    """Return the field `error` of a response, made from a fault. A text over 10,000 characters is cut."""
    detail = str(fault)[:_LONGEST_DETAIL_CHARS]
    return {"code": fault.code, "status": fault.status, "detail": detail, "field": fault.field}


def _command(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=OrderCommand).command[:80]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
