"""SQL statements about messages to agents whose outcome is not known yet. A message is a command of the verb `message`.

The manager stores a message before it sends the message to the agent, and deletes it when the agent answers in time. If
the agent answers later, fails, or ends first, the outcome and its event are stored in one transaction. So each message
has one outcome, also if a manager dies or an agent delivers an outcome twice.
"""

from typing import Final

from sqlalchemy import delete, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.tables import agent_commands
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.store import agents as registry
from muster.common.contracts.agent_messages import MessageError, MessageResult
from muster.common.faults import Conflict

OPEN: Final = "message"
"""The verb of a message without an outcome. After its outcome, the verb is the state of the message."""


async def add(tx: Transaction, agent: AgentRecord, message_id: str) -> None:
    """Store a message that will be sent to a locked agent. Raises `Conflict` if another command has this id."""
    row = {"command_id": message_id, "agent_id": agent.agent_id, "verb": OPEN, "at": tx.now}
    mine = (agent_commands.c.agent_id == agent.agent_id) & agent_commands.c.verb.in_(
        (OPEN, "answered", "failed", "lost")
    )
    query = insert(agent_commands).values(row)
    again = query.on_conflict_do_update(
        index_elements=[agent_commands.c.command_id], set_={"verb": OPEN, "at": tx.now}, where=mine
    )
    stored = await tx.connection.execute(again.returning(agent_commands.c.command_id))
    if stored.scalar_one_or_none() is None:
        raise Conflict(f"message_id {message_id} was used for another command; send a new message_id")


async def forget(tx: Transaction, message_id: str) -> None:
    """Delete an open message whose outcome the sender receives as the reply, or that the agent did not receive."""
    query = delete(agent_commands).where(agent_commands.c.command_id == message_id, agent_commands.c.verb == OPEN)
    await tx.connection.execute(query)


async def state(tx: Transaction, message_id: str) -> str | None:
    """Return `message` for an open message, the state of a message with an outcome, or None for an unknown message."""
    query = select(agent_commands.c.verb).where(agent_commands.c.command_id == message_id)
    return (await tx.connection.execute(query)).scalar_one_or_none()


async def settle(tx: Transaction, agent: AgentRecord, outcome: MessageResult) -> AgentRecord:
    """Store the outcome of an open message of a locked agent, with its event. Nothing changes for another message."""
    message = agent_commands
    query = (
        update(message)
        .where(message.c.command_id == outcome.message_id, message.c.agent_id == agent.agent_id, message.c.verb == OPEN)
        .values(verb=outcome.state)
        .returning(message.c.command_id)
    )
    if (await tx.connection.execute(query)).scalar_one_or_none() is None:
        return agent
    return await registry.tell_outcome(tx, agent, outcome)


async def lose(tx: Transaction, agent: AgentRecord, error: MessageError) -> AgentRecord:
    """Store that all open messages of a locked agent are lost, because the process of its newest launch has ended."""
    message = agent_commands
    mine = (message.c.agent_id == agent.agent_id) & (message.c.verb == literal_column(f"'{OPEN}'"))  # Of the index.
    query = select(message.c.command_id).where(mine).order_by(message.c.at, message.c.command_id)
    for message_id in list((await tx.connection.execute(query)).scalars()):
        lost = MessageResult(message_id=message_id, state="lost", error=error, launch=agent.launch)
        agent = await settle(tx, agent, lost)
    return agent
