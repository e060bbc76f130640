"""What is owed to deleted agents: that nothing is left of them. The intent is in their rows, and survives any crash."""

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
"""So long credentials may live, and so long who is late is reckoned with."""

_OWED = text("""
    INSERT INTO manager.agents AS a (agent_id, name, package, is_default, mode, created_at, deleted_at, launch, deaths)
    SELECT f.agent_id, f.agent_id, '', false, 'process', :now, :now, CAST(f.launch AS int), 1
    FROM jsonb_each_text(CAST(:found AS jsonb)) AS f(agent_id, launch)
    ON CONFLICT (agent_id) DO UPDATE
    SET deaths = greatest(a.deaths, 1), burials = 0, launch = greatest(a.launch, excluded.launch)
    WHERE a.deleted_at IS NOT NULL
""")


async def owe(tx: Transaction, found: Mapping[str, int]) -> None:
    """Something is left of these, whose newest launch was seen to be this one: bury them, once more, or at all.

    An id that nobody knows is known from now on, so that an agent registered under it is not taken for what is left.
    """
    await tx.connection.execute(_OWED, {"found": msgspec.json.encode(found).decode(), "now": tx.now})
    tx.changed = True


async def done(tx: Transaction, agent: AgentRecord, owner: str) -> None:
    """Nothing is left of those before it that were dead when `agent` was read. Raises `Fenced`."""
    held = await ownership.lock(tx, agent.agent_id, owner)
    await registry.note(tx, held, burials=max(held.burials, agent.deaths))
    tx.changed = True


async def launches_with_credentials(tx: Transaction, agent: AgentRecord, *, ended: bool = False) -> list[int]:
    """Launches, or only ended ones, so young that credentials minted for them may still be good."""
    recent = agent_launches.c.ended_at > tx.now - REMEMBERED
    recent = recent if ended else or_(agent_launches.c.ended_at.is_(None), recent)
    query = select(agent_launches.c.launch).where(
        agent_launches.c.agent_id == agent.agent_id, agent_launches.c.launch <= agent.launch, recent
    )
    return list((await tx.connection.execute(query)).scalars())


async def known(tx: Transaction, agent_ids: Sequence[str]) -> dict[str, int | None]:
    """Which of these ids were ever an agent's; with its newest launch where nothing should be left: it is buried."""
    buried = agents.c.deleted_at.is_not(None) & ~ownership.unburied
    query = select(agents.c.agent_id, agents.c.launch, buried).where(agents.c.agent_id.in_(agent_ids))
    return {row[0]: row[1] if row[2] else None for row in await tx.connection.execute(query)}
