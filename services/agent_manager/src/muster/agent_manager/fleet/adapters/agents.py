"""Sends requests to agents in process mode over NATS, and publishes the states and metrics of agents."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import structlog

from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.common.bus.connection import Bus, Incoming, OnMessage
from muster.common.contract import wildcard
from muster.common.contracts.agent_process import (
    AgentAnswered,
    AgentBeat,
    AgentMeasured,
    AgentMetricsTold,
    AgentOrder,
    AgentQuestion,
    AgentResponse,
    AgentStatusTold,
)
from muster.common.faults import AgentFailed, Conflict, Fault, Unavailable

log = structlog.get_logger()

ASK_S = 2.0


class AgentClient:
    """Sends requests to agents in process mode, and publishes their states and metrics."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def ask(self, agent: AgentRecord, question: Literal["health", "metrics"]) -> dict[str, Any] | None:
        """Ask an agent for its health or metrics. Returns None if it does not answer within 2 s or reports an error."""
        asked = AgentQuestion(agent_id=agent.agent_id, command=question, launch=agent.launch, timestamp=self._bus.now())
        try:
            answer = await self._bus.request(asked, timeout_s=ASK_S)
        except Fault as fault:
            log.info("agent did not answer", agent_id=agent.agent_id, question=question, error=str(fault))
            return None
        return answer.result if answer.status == "success" else None

    async def order(self, agent: AgentRecord, command: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a command to an agent and return its answer.

        Raises `Conflict` if the agent refuses, `AgentFailed` if the agent raised an exception, `Unavailable` if the
        agent does not receive the command, and `TimedOut` if it does not answer within 2 s.
        """
        order = AgentOrder(
            agent_id=agent.agent_id,
            command=command,
            launch=agent.launch,
            params=params,
            timestamp=self._bus.now(),
        )
        try:
            answer: AgentResponse = await self._bus.request(order, timeout_s=ASK_S)
        except Unavailable:
            raise Unavailable(
                f"agent {agent.agent_id} does not receive commands now; try again when it is running"
            ) from None
        if answer.status == "error":
            error = answer.error or {}
            refusal = AgentFailed if error.get("code") == AgentFailed.code else Conflict
            raise refusal(str(error.get("detail") or f"agent {agent.agent_id} refused {command}"))
        return answer.result or {}

    async def tell_state(self, agent: AgentRecord) -> None:
        """Publish the stored state of an agent on its NATS subject `agent.status`."""
        await self._tell(
            AgentStatusTold(
                agent_id=agent.agent_id,
                status=agent.state,
                at=agent.state_since,
                cites=agent.cites,
                last_seen=agent.last_seen,
                exit_code=agent.exit_code,
                metadata={"launch": agent.launch, "reason": agent.reason},
            )
        )

    async def tell_metrics(self, measured: AgentMeasured) -> None:
        """Publish the last metrics of an agent on its NATS subject `agent.metrics`."""
        await self._tell(AgentMetricsTold(agent_id=measured.agent_id, at=measured.at, metrics=measured.metrics))

    @asynccontextmanager
    async def hearing_outcomes(self, on_outcome: OnMessage) -> AsyncGenerator[None]:
        """Subscribe to the outcomes of messages until the `async with` block ends. One manager receives each."""
        subject = wildcard(AgentAnswered.SUBJECT)
        subscription = await self._bus.subscribe(subject, on_outcome, queue="agent_manager")
        await self._bus.flush()
        try:
            yield
        finally:
            await subscription.unsubscribe()

    async def confirm(self, outcome: Incoming) -> None:
        """Reply to an agent that the outcome of a message is stored."""
        if outcome.reply:
            await self._bus.send(outcome.reply, b"{}")

    @asynccontextmanager
    async def listening(self, on_beat: OnMessage, on_metrics: OnMessage) -> AsyncGenerator[None]:
        """Subscribe to the heartbeats and metrics of all agents until the `async with` block ends."""
        subscriptions = [
            await self._bus.subscribe(wildcard(AgentBeat.SUBJECT), on_beat),
            await self._bus.subscribe(wildcard(AgentMeasured.SUBJECT), on_metrics),
        ]
        await self._bus.flush()
        try:
            yield
        finally:
            for subscription in subscriptions:
                await subscription.unsubscribe()

    async def _tell(self, told: AgentStatusTold | AgentMetricsTold) -> None:
        try:
            await self._bus.publish(told)
        except Exception as error:  # noqa: BLE001 - not needed for correctness: the outbox publishes the state too
            log.debug("agent status not published", subject=told.subject, error=str(error))
