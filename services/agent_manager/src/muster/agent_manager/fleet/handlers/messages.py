"""Handles messages to agents in process mode: sends each to the agent, and stores its outcome.

stored --sent--> answered within 1.5 s: the outcome is the reply, and the stored message is deleted
   |                |
   |                +-- accepted, or no reply within 2 s: `MessageOutcomes` stores the later outcome, with an event
   +--process ends first--> lost: the launcher stores the outcome, with an event
"""

import asyncio

import msgspec
import structlog

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.domain.agents import SETTLED, AgentRecord
from muster.agent_manager.fleet.domain.launch_ends import lost
from muster.agent_manager.fleet.domain.messages import failure, outcome_of
from muster.agent_manager.fleet.handlers.lifecycle import found
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import launches, messages
from muster.common.bus.connection import Incoming
from muster.common.contract import decode, token
from muster.common.contracts.agent_messages import Handed, MessageAgent, MessageResult
from muster.common.contracts.agent_process import AgentAnswered
from muster.common.faults import AgentFailed, Conflict, Fault, InvalidMessage, TimedOut, Unavailable

log = structlog.get_logger()

LONGEST_TEXT = 256 << 10


class AgentMessages:
    """Handles the command `message`."""

    def __init__(self, database: ManagerDatabase, agents: AgentClient) -> None:
        self._database, self._agents = database, agents

    async def message(self, command: MessageAgent) -> Handed:
        """Send a message to a running agent in process mode.

        Return the agent's answer, its error, or that the agent works on the message. Raises `Conflict` if the agent
        refuses the message or does not run.
        """
        _check(command)
        async with self._database.begin() as tx:
            # The lock orders this transaction and the one that stores the end of the process, so that no message of an
            # ended process stays open.
            agent = await found(tx, command.agent_id, hold=True)
            _refuse_unreachable(agent)
            await messages.add(tx, agent, command.message_id)
        params = {"message_id": command.message_id, "text": command.text, "sender": command.sender}
        try:
            answer = await self._agents.order(agent, "message", params)
        except TimedOut:
            return _handed(agent, await self._unconfirmed(agent, command.message_id), confirmed=False)
        except AgentFailed as failed:
            await self._forget(command.message_id)
            error = {"code": failed.code, "detail": str(failed)}
            return _handed(agent, failure(command.message_id, error, agent.launch))
        except (Conflict, Unavailable):
            await self._forget(command.message_id)
            raise
        if answer.get("state") != "accepted":
            await self._forget(command.message_id)
        return Handed(agent_id=agent.agent_id, message_id=command.message_id, agent=answer)

    async def _unconfirmed(self, agent: AgentRecord, message_id: str) -> MessageResult:
        """Return the state of a message to which the agent did not reply within 2 s."""
        async with self._database.reading() as tx:
            state = await messages.state(tx, message_id)
            launch = await launches.of(tx, agent.agent_id, agent.launch) if state == "lost" else None
            now = await registry.read(tx, agent.agent_id)
        if launch is None:
            return MessageResult(message_id=message_id, state="accepted", launch=agent.launch)
        stopped = now is None or now.desired == "stopped" or agent.launch < now.min_launch
        error = lost(agent.name, launch.exit_code, launch.signal, stopped=stopped)
        return MessageResult(message_id=message_id, state="lost", error=error, launch=agent.launch)

    async def _forget(self, message_id: str) -> None:
        async with self._database.begin() as tx:
            await messages.forget(tx, message_id)


class MessageOutcomes:
    """Stores the outcomes that agents deliver later than their replies, and confirms them to the agents."""

    def __init__(self, database: ManagerDatabase, agents: AgentClient) -> None:
        self._database, self._agents = database, agents

    async def run(self) -> None:
        """Receive outcomes of messages until cancelled."""
        async with self._agents.hearing_outcomes(self._on_outcome):
            await asyncio.Event().wait()

    async def _on_outcome(self, delivered: Incoming) -> None:
        """Store an outcome. Must not raise. Without a confirmation, the agent delivers the outcome again."""
        agent_id = delivered.subject.split(".")[1]
        try:
            answered = decode(delivered.data, AgentAnswered)
            if not answered.message_id:  # The reply to a request, which its requester receives too.
                return
            async with self._database.begin() as tx:
                # Most outcomes were in the reply already, so the message is not open and the agent is not locked.
                is_open = await messages.state(tx, answered.message_id) == messages.OPEN
                if is_open and (agent := await registry.lock(tx, agent_id)) is not None:
                    await messages.settle(tx, agent, outcome_of(answered))
            await self._agents.confirm(delivered)
        except Fault as error:
            log.info("outcome of a message not stored", agent_id=agent_id, error=str(error))
        except Exception:
            # The agent chose the values, so an error here must not end the loop for the messages of all other agents.
            log.exception("outcome of a message could not be handled", agent_id=agent_id)


def _check(command: MessageAgent) -> None:
    token(command.message_id, "message_id")
    if not command.text.strip():
        raise InvalidMessage("text is empty; write a message", field="$.text")
    if len(command.text.encode(errors="replace")) > LONGEST_TEXT:
        raise InvalidMessage(f"text is longer than {LONGEST_TEXT >> 10} KiB; shorten it", field="$.text")


def _refuse_unreachable(agent: AgentRecord) -> None:
    if agent.mode != "process":
        raise Conflict(f"agent {agent.name} runs in sandboxes and accepts no messages; steer its task instead")
    if agent.state in SETTLED or agent.pid is None:
        raise Conflict(f"agent {agent.name} does not run (state: {agent.state}); start it first")


def _handed(agent: AgentRecord, result: MessageResult, *, confirmed: bool = True) -> Handed:
    told = {"answer": None, **msgspec.to_builtins(result)}
    if not confirmed and result.state == "accepted":
        told["confirmed"] = False
    return Handed(agent_id=agent.agent_id, message_id=result.message_id, agent=told)
