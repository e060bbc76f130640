"""SQL statements that store the states, heartbeats, metrics and command ids of agents."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from muster.agent_manager.database.conditions import any_of
from muster.agent_manager.database.tables import agent_commands, agent_totals, agents, attempts
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import agent_step
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contracts.agents import AgentState
from muster.common.faults import Conflict
from muster.common.storable_values import without_nul


class StoredHeartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat of one agent, with metrics if there are any; many heartbeats are stored in one statement."""

    agent_id: str
    at: datetime | None = None
    beat: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None
    metrics_at: datetime | None = None


async def obeyed(tx: Transaction, command_id: str, agent_id: str, verb: str) -> bool:
    """Return whether this command was carried out before. Raises `Conflict` if its id belongs to another command."""
    row = {"command_id": command_id, "agent_id": agent_id, "verb": verb, "at": tx.now}
    query = insert(agent_commands).values(row).on_conflict_do_nothing().returning(agent_commands.c.command_id)
    if (await tx.connection.execute(query)).scalar_one_or_none() is not None:
        return False
    columns = (agent_commands.c.agent_id, agent_commands.c.verb)
    said = (await tx.connection.execute(select(*columns).where(agent_commands.c.command_id == command_id))).one()
    if tuple(said) != (agent_id, verb):
        raise Conflict(f"command_id {command_id} was used for {said[1]} of agent {said[0]}; send a new command_id")
    return True


async def go(tx: Transaction, agent: AgentRecord, to: AgentState, *, cites: str = "", **fields: object) -> AgentRecord:
    """Store the next state of a locked agent, with its event. Raises `IllegalStepError` for a wrong change."""
    cites = cites or f"agents#{agent.agent_id}/{agent.version + 1}"
    return await registry.change(tx, agent, to, state=agent_step(agent.state, to), cites=cites, **fields)


async def seen(tx: Transaction, owner: str, beats: Sequence[StoredHeartbeat]) -> None:
    """Store heartbeats and metrics of many agents in one statement, without events and without new versions.

    The statement locks rows in the order of their ids, as does every statement that locks many agents. Otherwise two
    transactions could wait for each other.
    """
    told = [without_nul(msgspec.to_builtins(one)) for one in beats]
    await tx.connection.execute(
        _SEEN, {"beats": told, "agent_ids": [one.agent_id for one in beats], "beats_owner": owner}
    )


def _seen() -> sa.Update:
    beats = (
        sa.func.jsonb_to_recordset(sa.bindparam("beats", type_=JSONB))
        .table_valued(
            sa.column("agent_id", sa.Text),
            sa.column("at", sa.DateTime(timezone=True)),
            sa.column("beat", JSONB),
            sa.column("metrics", JSONB),
            sa.column("metrics_at", sa.DateTime(timezone=True)),
        )
        .render_derived(name="beats", with_types=True)
    )
    held = (
        select(agents.c.agent_id)
        .where(
            agents.c.agent_id == sa.any_(sa.bindparam("agent_ids", type_=ARRAY(sa.Text))),
            agents.c.owner == sa.bindparam("beats_owner"),
        )
        .order_by(agents.c.agent_id)
        .with_for_update(key_share=True)
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    new_values = {
        agents.c.last_seen: beats.c.at,
        agents.c.beat: beats.c.beat,
        agents.c.metrics: beats.c.metrics,
        agents.c.metrics_at: beats.c.metrics_at,
    }
    return (
        sa.update(agents)
        .values({column: sa.func.coalesce(new, column) for column, new in new_values.items()})
        .where(agents.c.agent_id == beats.c.agent_id, beats.c.agent_id == held.c.agent_id)
    )


_SEEN = _seen()


async def counted(tx: Transaction, agent_id: str) -> dict[str, float]:
    """Return the sums over all attempts of an agent, including attempts that are deleted."""
    names = ("tasks", "model_calls", "tokens", "cost_usd")
    query = select(*(agent_totals.c[name] for name in names)).where(agent_totals.c.agent_id == agent_id)
    row = (await tx.connection.execute(query)).one_or_none()
    return dict.fromkeys(names, 0.0) if row is None else dict(zip(names, map(float, row), strict=True))


async def sandbox_states(tx: Transaction, agent_id: str | None = None) -> list[tuple[str, AgentState]]:
    """Return the ids of agents in sandbox mode whose stored state is wrong, each with the right state.

    The right state follows from the desired state and the live attempts. With `agent_id`, checks only this agent.
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
