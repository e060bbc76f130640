"""Statements about launches of agents in process mode: stored before the process is requested, ended once."""

from datetime import datetime

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.rows import record
from muster.agent_manager.database.tables import agent_launches
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.agent_manager.fleet.domain.restarts import MOST
from muster.common.postgres.reading import Read, Reader
from muster.common.storable import without_nul


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.agent_launches`. `log_offset` and `log_lines` say how far its output is stored."""

    agent_id: str
    launch: int
    key: str
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    signal: str | None
    reason: str | None
    log_offset: int
    log_lines: int


class LaunchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, whether its newest launch is open, and when launches since the last command failed."""

    agent: AgentRecord
    is_open: bool
    failures: tuple[datetime, ...]


_SEEN = Read(
    f"""SELECT json_build_object(
        'agent', a,
        'is_open', EXISTS (
            SELECT FROM manager.agent_launches l
            WHERE l.agent_id = a.agent_id AND l.launch = a.launch AND l.ended_at IS NULL
        ),
        'failures', ARRAY(
            SELECT f.ended_at FROM (
                SELECT l.launch, l.ended_at FROM manager.agent_launches l
                WHERE l.agent_id = a.agent_id AND l.launch >= a.wished_launch
                    AND l.ended_at IS NOT NULL AND l.exit_code IS DISTINCT FROM 0
                ORDER BY l.launch DESC LIMIT {MOST}
            ) f ORDER BY f.launch
        ))
        FROM manager.agents a WHERE a.agent_id = $1 AND a.owner = $2""",  # noqa: S608 - a constant
    LaunchFacts,
)


async def of(tx: Transaction, agent_id: str, launch: int) -> Launch | None:
    """Return one launch, or None."""
    query = select(agent_launches).where(agent_launches.c.agent_id == agent_id, agent_launches.c.launch == launch)
    row = (await tx.connection.execute(query)).mappings().one_or_none()
    return None if row is None else record(row, Launch)


async def seen(reader: Reader, agent_id: str, owner: str) -> LaunchFacts | None:
    """Return all stored facts about an agent; None if this manager does not own it."""
    return await reader.one(_SEEN, agent_id, owner)


async def intend(tx: Transaction, agent_id: str, launch: int, key: str) -> None:
    """Store a launch before its process is requested."""
    row = {"agent_id": agent_id, "launch": launch, "key": key, "started_at": tx.now, "log_offset": 0, "log_lines": 0}
    await tx.connection.execute(insert(agent_launches).values(row))


async def ended(tx: Transaction, agent: AgentRecord, process: AgentProcess | None, reason: str) -> None:
    """Store how the newest launch ended."""
    how = {
        "ended_at": (process.ended_at if process else None) or tx.now,
        "exit_code": process.exit_code if process else None,
        "signal": process.signal if process else None,
        "reason": reason,
    }
    await _note(tx, agent.agent_id, agent.launch, **how)


async def logged(tx: Transaction, agent_id: str, launch: int, offset: int, lines: int) -> None:
    """Store how far the output of a launch is stored in the stream."""
    await _note(tx, agent_id, launch, log_offset=offset, log_lines=lines)


async def counted(tx: Transaction, agent_id: str) -> int:
    """Return the number of launches."""
    query = select(func.count()).where(agent_launches.c.agent_id == agent_id)
    return (await tx.connection.execute(query)).scalar_one()


async def _note(tx: Transaction, agent_id: str, launch: int, **fields: object) -> None:
    one = (agent_launches.c.agent_id == agent_id) & (agent_launches.c.launch == launch)
    await tx.connection.execute(update(agent_launches).where(one).values(**without_nul(fields)))
