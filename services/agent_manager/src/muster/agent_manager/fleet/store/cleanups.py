"""Statements about what deleted agents left. That it must be removed is in their rows, and survives any crash."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
from sqlalchemy import or_, select, text

from muster.agent_manager.database.tables import agent_launches, agents
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import ownership
from muster.common.identity.authority import LONGEST_TTL_S

REMEMBERED = timedelta(seconds=LONGEST_TTL_S)
"""How long credentials are valid at most, and how long a launch may be delayed."""

_OWED = text("""
    INSERT INTO manager.agents AS a (agent_id, name, package, is_default, mode, created_at, deleted_at, launch, deaths)
    SELECT f.agent_id, f.agent_id, '', false, 'process', :now, :now, CAST(f.launch AS int), 1
    FROM jsonb_each_text(CAST(:found AS jsonb)) AS f(agent_id, launch)
    ON CONFLICT (agent_id) DO UPDATE
    SET deaths = greatest(a.deaths, 1), burials = 0, launch = greatest(a.launch, excluded.launch)
    WHERE a.deleted_at IS NOT NULL
""")


async def owe(tx: Transaction, found: Mapping[str, int]) -> None:
    """Store that something of these agents is left, with the newest launch that was seen.

    It is then removed, again if need be. An unknown id gets a row, so that a later agent of this id is not mistaken for
    what is left.
    """
    await tx.connection.execute(_OWED, {"found": msgspec.json.encode(found).decode(), "now": tx.now})
    tx.changed = True


async def done(tx: Transaction, agent: AgentRecord, owner: str) -> None:
    """Store that nothing is left of the agents deleted before `agent` was read. Raises `OwnershipLost`."""
    held = await ownership.lock(tx, agent.agent_id, owner)
    await registry.note(tx, held, burials=max(held.burials, agent.deaths))
    tx.changed = True


async def launches_with_credentials(tx: Transaction, agent: AgentRecord, *, ended: bool = False) -> list[int]:
    """Return launches, or only ended ones, that are so young that their credentials may still be valid."""
    recent = agent_launches.c.ended_at > tx.now - REMEMBERED
    recent = recent if ended else or_(agent_launches.c.ended_at.is_(None), recent)
    query = select(agent_launches.c.launch).where(
        agent_launches.c.agent_id == agent.agent_id, agent_launches.c.launch <= agent.launch, recent
    )
    return list((await tx.connection.execute(query)).scalars())


async def known(tx: Transaction, agent_ids: Sequence[str]) -> dict[str, int | None]:
    """Return which of these ids ever belonged to an agent; with the newest launch if nothing of it should be left."""
    buried = agents.c.deleted_at.is_not(None) & ~ownership.unburied
    query = select(agents.c.agent_id, agents.c.launch, buried).where(agents.c.agent_id.in_(agent_ids))
    return {row[0]: row[1] if row[2] else None for row in await tx.connection.execute(query)}
