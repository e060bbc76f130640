"""SQL statements about processes, files and credentials of deleted agents, which must be removed.

The rows of the agents store that a removal is needed, so no crash loses it.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.tables import agent_launches, agents
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import ownership
from muster.common.agent_credentials.authority import LONGEST_TTL_S

REMEMBERED = timedelta(seconds=LONGEST_TTL_S)
"""The longest time for which credentials are valid, and for which a launch can be delayed."""


async def owe(tx: Transaction, found: Mapping[str, int]) -> None:
    """Store that deleted agents have left processes or files; `found` maps their ids to the newest launch seen.

    A manager then removes these processes and files. An unknown id gets a row, so that a later agent with this id uses
    other launch numbers and another directory.
    """
    unknown = {
        "package": "",
        "is_default": False,
        "mode": "process",
        "created_at": tx.now,
        "deleted_at": tx.now,
        "deletions": 1,
    }
    rows = [{"agent_id": one, "name": one, "launch": launch, **unknown} for one, launch in sorted(found.items())]
    new = insert(agents)
    query = new.on_conflict_do_update(
        index_elements=[agents.c.agent_id],
        set_={
            "deletions": func.greatest(agents.c.deletions, 1),
            "cleanups": 0,
            "launch": func.greatest(agents.c.launch, new.excluded.launch),
        },
        where=agents.c.deleted_at.is_not(None),
    )
    await tx.connection.execute(query, rows)
    tx.changed = True


async def done(tx: Transaction, agent: AgentRecord, owner: str) -> None:
    """Store that the processes and files of deleted agents with this id are removed.

    Only deletions before `agent` was read count. Raises `OwnershipLost`.
    """
    held = await ownership.lock(tx, agent.agent_id, owner)
    await registry.note(tx, held, cleanups=max(held.cleanups, agent.deletions))
    tx.changed = True


async def launches_with_credentials(tx: Transaction, agent: AgentRecord, *, ended: bool = False) -> list[int]:
    """Return the launches of an agent whose credentials may still be valid; with `ended`, only ended launches."""
    recent = agent_launches.c.ended_at > tx.now - REMEMBERED
    recent = recent if ended else or_(agent_launches.c.ended_at.is_(None), recent)
    query = select(agent_launches.c.launch).where(
        agent_launches.c.agent_id == agent.agent_id, agent_launches.c.launch <= agent.launch, recent
    )
    return list((await tx.connection.execute(query)).scalars())


async def known(tx: Transaction, agent_ids: Sequence[str]) -> dict[str, int | None]:
    """Return a dict whose keys are those of the given ids that ever belonged to an agent.

    If an agent is deleted and its processes and files are removed, the value is the number of its newest launch. For
    other agents the value is None.
    """
    cleaned = agents.c.deleted_at.is_not(None) & ~ownership.uncleaned
    query = select(agents.c.agent_id, agents.c.launch, cleaned).where(agents.c.agent_id.in_(agent_ids))
    return {row[0]: row[1] if row[2] else None for row in await tx.connection.execute(query)}
