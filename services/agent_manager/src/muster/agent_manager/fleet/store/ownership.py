"""SQL statements about ownership of agents: each manager has a lease, and each agent's row names its owner."""

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.tables import agent_launches, agents, managers
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.store import agents as registry
from muster.common.faults import Conflict

CLAIMED_AT_ONCE = 200
_FORGOTTEN_AFTER = timedelta(hours=1)


class OwnershipLost(Conflict):
    """Another manager owns the agent now; the caller must not change the agent any more."""

    code = "fenced"


uncleaned = agents.c.cleanups < agents.c.deletions
_to_run = (agents.c.mode == "process") & (agents.c.desired == "running") & agents.c.deleted_at.is_(None)
_living = select(managers.c.manager_id).where(managers.c.until > sa.func.clock_timestamp())


async def enlist(tx: Transaction, manager_id: str, ttl_s: float) -> None:
    """Begin a lease for a manager with a new id; it expires `ttl_s` seconds from now by the database's clock."""
    until = sa.func.clock_timestamp() + timedelta(seconds=ttl_s)
    await tx.connection.execute(insert(managers).values(manager_id=manager_id, fence=0, until=until))
    await tx.connection.execute(delete(managers).where(managers.c.until < sa.func.clock_timestamp() - _FORGOTTEN_AFTER))


async def renew(tx: Transaction, manager_id: str, ttl_s: float) -> bool:
    """Renew the lease of a manager; return False if it has expired. An expired lease can never be renewed."""
    alive = (managers.c.manager_id == manager_id) & (managers.c.until > sa.func.clock_timestamp())
    query = update(managers).where(alive).values(until=sa.func.clock_timestamp() + timedelta(seconds=ttl_s))
    return (await tx.connection.execute(query.returning(managers.c.manager_id))).scalar_one_or_none() is not None


async def leave(tx: Transaction, manager_id: str) -> None:
    """End the lease of a manager at once, so that other managers need not wait until it expires."""
    await tx.connection.execute(delete(managers).where(managers.c.manager_id == manager_id))
    tx.changed = True


async def claim(tx: Transaction, manager_id: str, *, orphans: bool) -> list[str]:
    """Take agents without an owner that must run or be cleaned up, up to a fair share; return their ids.

    With `orphans`, also take agents of managers whose lease has expired; this reads every owned agent.
    """
    unkept = agents.c.owner.is_(None)
    free_now = [unkept & _to_run, unkept & uncleaned]
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
    """Return whether any agent meets one of the conditions. Each condition has a subquery that uses its own index."""
    first = [select(agents.c.agent_id).where(one).order_by(agents.c.agent_id).limit(1) for one in wanted]
    query = select(sa.or_(*(one.scalar_subquery().is_not(None) for one in first)))
    return (await tx.connection.execute(query)).scalar_one()


async def _fair_share(tx: Transaction, manager_id: str) -> int:
    """Return how many more agents this manager may take; at least 1, so that rounding leaves no agent unowned."""
    counted = select(
        select(sa.func.count()).select_from(_living.subquery()).scalar_subquery(),
        sa.func.count().filter(agents.c.owner == manager_id),
        sa.func.count(),
    ).where(agents.c.owner.is_not(None) | _to_run | uncleaned)
    living, mine, all_ = (await tx.connection.execute(counted)).one()
    return max(1, -(-all_ // max(1, living)) - mine)


async def lock(tx: Transaction, agent_id: str, manager_id: str) -> AgentRecord:
    """Lock an agent until the transaction ends. Raises `OwnershipLost` if this manager does not own the agent."""
    agent = await registry.stored(tx, agent_id, held=True)
    if agent is None or agent.owner != manager_id:
        raise OwnershipLost(f"agent {agent_id} belongs to manager {agent.owner if agent else 'none'} now")
    return agent


async def release(tx: Transaction, agent: AgentRecord) -> None:
    """Remove the owner of an agent that needs no more steps."""
    await registry.note(tx, agent, owner=None)


async def unsettled(tx: Transaction, manager_id: str) -> list[tuple[str, int]]:
    """Return id and version of each agent of this manager whose actual state may differ from the desired state."""
    newest = (agent_launches.c.agent_id == agents.c.agent_id) & (agent_launches.c.launch == agents.c.launch)
    is_open = agent_launches.c.launch.is_not(None) & agent_launches.c.ended_at.is_(None)
    behind = (agents.c.desired == "stopped") | (agents.c.launch < agents.c.min_launch) | agents.c.pid.is_(None)
    owed = (agents.c.desired == "running") | agents.c.state.not_in(("stopped", "quarantined"))
    query = (
        select(agents.c.agent_id, agents.c.version)
        .select_from(agents.outerjoin(agent_launches, newest))
        .where(agents.c.owner == manager_id, (is_open & behind) | (~is_open & owed) | uncleaned)
        .order_by(agents.c.updated_at)
    )
    return [(row[0], row[1]) for row in await tx.connection.execute(query)]


async def kept(tx: Transaction, manager_id: str) -> list[str]:
    """Return the ids of the agents that this manager owns."""
    query = select(agents.c.agent_id).where(agents.c.owner == manager_id)
    return list((await tx.connection.execute(query)).scalars())


async def strays(tx: Transaction, agent_ids: Sequence[str]) -> list[str]:
    """Return those of the given agents that have no owner and need none, because they must not run."""
    known = agents.c.agent_id.in_(agent_ids) & agents.c.deleted_at.is_(None)
    query = select(agents.c.agent_id).where(known, agents.c.owner.is_(None), ~(_to_run | uncleaned))
    return list((await tx.connection.execute(query)).scalars())
