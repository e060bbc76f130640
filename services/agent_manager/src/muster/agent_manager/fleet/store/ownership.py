"""Statements about ownership: a lease for each manager, on the database's clock, and an owner on each agent's row."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.tables import agent_launches, agents, managers
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.store import agents as registry
from muster.common.faults import Conflict

CLAIMED_AT_ONCE = 200


class OwnershipLost(Conflict):
    """Another manager owns the agent now; the present one must not act on it any more."""

    code = "fenced"


unburied = agents.c.burials < agents.c.deaths
_to_run = (agents.c.mode == "process") & (agents.c.desired == "running") & agents.c.deleted_at.is_(None)
_living = select(managers.c.manager_id).where(managers.c.until > sa.func.clock_timestamp())


async def enlist(tx: Transaction, manager_id: str, ttl_s: float) -> None:
    """Begin a lease under a new id."""
    until = sa.func.clock_timestamp() + _seconds(ttl_s)
    await tx.connection.execute(insert(managers).values(manager_id=manager_id, fence=0, until=until))
    await tx.connection.execute(delete(managers).where(managers.c.until < sa.func.clock_timestamp() - _seconds(3600)))


async def renew(tx: Transaction, manager_id: str, ttl_s: float) -> bool:
    """Renew a lease. Returns False if it has expired: then it can never be renewed."""
    alive = (managers.c.manager_id == manager_id) & (managers.c.until > sa.func.clock_timestamp())
    query = update(managers).where(alive).values(until=sa.func.clock_timestamp() + _seconds(ttl_s))
    return (await tx.connection.execute(query.returning(managers.c.manager_id))).scalar_one_or_none() is not None


async def leave(tx: Transaction, manager_id: str) -> None:
    """End a lease at once, so that others need not wait for it to expire."""
    await tx.connection.execute(delete(managers).where(managers.c.manager_id == manager_id))
    tx.changed = True


async def claim(tx: Transaction, manager_id: str, *, orphans: bool) -> list[str]:
    """Take agents that should run or must be cleaned up and that have no owner, up to a fair share; return their ids.

    `orphans`: also those of managers whose lease has expired, which reads every owned agent.
    """
    unkept = agents.c.owner.is_(None)
    free_now = [unkept & _to_run, unkept & unburied]
    if orphans:
        free_now.append(agents.c.owner.is_not(None) & agents.c.owner.not_in(_living))
    if not await _any(tx, free_now):
        return []
    room = await _fair_share(tx, manager_id)
    query = (
        select(agents.c.agent_id)
        .where(sa.or_(*free_now))
        .order_by(agents.c.agent_id)
        .limit(min(room, CLAIMED_AT_ONCE))
        .with_for_update(skip_locked=True)
    )
    free = list((await tx.connection.execute(query)).scalars())
    if free:
        taken = {"owner": manager_id, "fence": agents.c.fence + 1}
        await tx.connection.execute(update(agents).where(agents.c.agent_id.in_(free)).values(taken))
        tx.changed = True
    return free


async def _any(tx: Transaction, wanted: Sequence[sa.ColumnElement[bool]]) -> bool:
    """One statement for each index, which mostly find nothing; run in order, because the planner may not see that."""
    first = [select(agents.c.agent_id).where(one).order_by(agents.c.agent_id).limit(1) for one in wanted]
    query = select(sa.or_(*(one.scalar_subquery().is_not(None) for one in first)))
    return (await tx.connection.execute(query)).scalar_one()


async def _fair_share(tx: Transaction, manager_id: str) -> int:
    """Return how many more agents this manager may take; at least one, so that no agent waits because of rounding."""
    counted = select(
        select(sa.func.count()).select_from(_living.subquery()).scalar_subquery(),
        sa.func.count().filter(agents.c.owner == manager_id),
        sa.func.count(),
    ).where(agents.c.owner.is_not(None) | _to_run | unburied)
    living, mine, all_ = (await tx.connection.execute(counted)).one()
    return max(1, -(-all_ // max(1, living)) - mine)


async def lock(tx: Transaction, agent_id: str, manager_id: str) -> AgentRecord:
    """Lock the agent until the transaction ends. Raises `OwnershipLost` unless this manager owns it."""
    agent = await registry.stored(tx, agent_id, held=True)
    if agent is None or agent.owner != manager_id:
        raise OwnershipLost(f"agent {agent_id} is kept by {agent.owner if agent else 'nobody'} now")
    return agent


async def release(tx: Transaction, agent: AgentRecord) -> None:
    """Release an agent for which nothing is left to do."""
    await registry.note(tx, agent, owner=None)


async def unsettled(tx: Transaction, manager_id: str) -> list[tuple[str, int]]:
    """Return id and version of each owned agent whose actual state may differ from the desired one."""
    newest = (agent_launches.c.agent_id == agents.c.agent_id) & (agent_launches.c.launch == agents.c.launch)
    is_open = agent_launches.c.launch.is_not(None) & agent_launches.c.ended_at.is_(None)
    behind = (agents.c.desired == "stopped") | (agents.c.launch < agents.c.wished_launch) | agents.c.pid.is_(None)
    owed = (agents.c.desired == "running") | agents.c.state.not_in(("stopped", "quarantined"))
    query = (
        select(agents.c.agent_id, agents.c.version)
        .select_from(agents.outerjoin(agent_launches, newest))
        .where(agents.c.owner == manager_id, (is_open & behind) | (~is_open & owed) | unburied)
        .order_by(agents.c.updated_at)
    )
    return [(row[0], row[1]) for row in await tx.connection.execute(query)]


async def kept(tx: Transaction, manager_id: str) -> list[str]:
    """Return the ids of the agents that this manager owns."""
    query = select(agents.c.agent_id).where(agents.c.owner == manager_id)
    return list((await tx.connection.execute(query)).scalars())


async def strays(tx: Transaction, agent_ids: Sequence[str]) -> list[str]:
    """Return those of these agents that no manager owns or is about to take."""
    known = agents.c.agent_id.in_(agent_ids) & agents.c.deleted_at.is_(None)
    query = select(agents.c.agent_id).where(known, agents.c.owner.is_(None), ~(_to_run | unburied))
    return list((await tx.connection.execute(query)).scalars())


def _seconds(number: float) -> sa.TextClause:
    return text(f"interval '{number:.3f} seconds'")
