"""Statements of an agent's owner: desired state, state, heartbeats and metrics. Each checks the owner."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.conditions import any_of
from muster.agent_manager.database.tables import agent_commands, agent_totals, agents, attempts
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import agent_step
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contracts.agents import AgentState
from muster.common.faults import Conflict
from muster.common.storable import without_nul


class StoredHeartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat, perhaps with metrics, of one agent, to be stored together with those of others."""

    agent_id: str
    at: datetime | None = None
    beat: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None
    metrics_at: datetime | None = None


async def obeyed(tx: Transaction, command_id: str, agent_id: str, verb: str) -> bool:
    """Return whether this command was carried out before. Raises `Conflict` if the id belongs to another command."""
    row = {"command_id": command_id, "agent_id": agent_id, "verb": verb, "at": tx.now}
    query = insert(agent_commands).values(row).on_conflict_do_nothing().returning(agent_commands.c.command_id)
    if (await tx.connection.execute(query)).scalar_one_or_none() is not None:
        return False
    columns = (agent_commands.c.agent_id, agent_commands.c.verb)
    said = (await tx.connection.execute(select(*columns).where(agent_commands.c.command_id == command_id))).one()
    if tuple(said) != (agent_id, verb):
        raise Conflict(f"command_id {command_id} was used for {said[1]} of {said[0]}; every command has its own")
    return True


async def go(tx: Transaction, agent: AgentRecord, to: AgentState, *, cites: str = "", **fields: object) -> AgentRecord:
    """Store the next state of a locked agent, and its event. Raises `IllegalStepError`."""
    cites = cites or f"agents#{agent.agent_id}/{agent.version + 1}"
    return await registry.change(tx, agent, to, state=agent_step(agent.state, to), cites=cites, **fields)


async def seen(tx: Transaction, owner: str, beats: Sequence[StoredHeartbeat]) -> None:
    """Store heartbeats and metrics of many agents in one statement, without events and without new versions.

    The rows are locked in order of their ids, as in every statement that locks many agents: otherwise two transactions
    could wait for each other.
    """
    query = text("""
        WITH held AS MATERIALIZED (
            SELECT agent_id FROM manager.agents WHERE agent_id = ANY (CAST(:agent_ids AS text[])) AND owner = :owner
            ORDER BY agent_id FOR NO KEY UPDATE
        )
        UPDATE manager.agents AS a
        SET last_seen = COALESCE(s.at, a.last_seen), beat = COALESCE(s.beat, a.beat),
            metrics = COALESCE(s.metrics, a.metrics), metrics_at = COALESCE(s.metrics_at, a.metrics_at)
        FROM jsonb_to_recordset(CAST(:seen AS jsonb))
            AS s(agent_id text, at timestamptz, beat jsonb, metrics jsonb, metrics_at timestamptz)
            JOIN held ON held.agent_id = s.agent_id
        WHERE a.agent_id = s.agent_id
    """)
    told = [without_nul(msgspec.to_builtins(one)) for one in beats]
    values = {"seen": msgspec.json.encode(told).decode(), "agent_ids": [one.agent_id for one in beats], "owner": owner}
    await tx.connection.execute(query, values)


async def counted(tx: Transaction, agent_id: str) -> dict[str, float]:
    """Return the sums over the attempts of an agent, also over attempts that are deleted."""
    names = ("tasks", "model_calls", "tokens", "cost_usd")
    query = select(*(agent_totals.c[name] for name in names)).where(agent_totals.c.agent_id == agent_id)
    row = (await tx.connection.execute(query)).one_or_none()
    return dict.fromkeys(names, 0.0) if row is None else dict(zip(names, map(float, row), strict=True))


async def sandbox_states(tx: Transaction, agent_id: str | None = None) -> list[tuple[str, AgentState]]:
    """Return the agents in sandbox mode whose state is not what their desired state and live attempts make of it.

    Each comes with the right state. With `agent_id`, looks at this agent only.
    """
    busy = (
        select(attempts.c.attempt_id)
        .where(attempts.c.agent_id == agents.c.agent_id, any_of(attempts.c.state, LIVE))
        .exists()
    )
    right = sa.case(
        (agents.c.desired == "running", sa.case((busy, "running"), else_="idle")),
        else_=sa.case((busy, "stopping"), else_="stopped"),
    )
    one = sa.true() if agent_id is None else agents.c.agent_id == agent_id
    query = select(agents.c.agent_id, right).where(
        one,
        agents.c.mode == "sandbox",
        agents.c.deleted_at.is_(None),
        agents.c.state.not_in(("quarantined", "error")),
        agents.c.state != right,
    )
    return [(row[0], row[1]) for row in await tx.connection.execute(query)]
