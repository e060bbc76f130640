"""SQL statements about launches of agents in process mode. A launch is stored before its process is requested."""

from datetime import datetime

import msgspec
from sqlalchemy import and_, bindparam, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from muster.agent_manager.database.rows import fields, record
from muster.agent_manager.database.tables import agent_launches, agents
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.agent_manager.fleet.domain.restarts import MOST
from muster.common.postgres.reading import Read, Reader, Rows, json_rows
from muster.common.storable_values import without_nul


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `manager.agent_launches`. `log_offset` and `log_lines` count the bytes and lines of stored output."""

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
    """An agent, whether its newest launch has not ended, and the times of failed launches since the last command."""

    agent: AgentRecord
    is_open: bool
    failures: tuple[datetime, ...]


def _facts() -> Rows:
    owned = and_(agents.c.agent_id == bindparam("agent_id"), agents.c.owner == bindparam("owner"))
    agent = select(*fields(agents)).where(owned).subquery("a")
    mine = agent_launches.c.agent_id == agent.c.agent_id
    is_open = exists().where(mine, agent_launches.c.launch == agent.c.launch, agent_launches.c.ended_at.is_(None))
    failed = (
        select(agent_launches.c.launch, agent_launches.c.ended_at)
        .where(
            mine,
            agent_launches.c.launch >= agent.c.min_launch,
            agent_launches.c.ended_at.is_not(None),
            agent_launches.c.exit_code.is_distinct_from(0),
        )
        .order_by(agent_launches.c.launch.desc())
        .limit(MOST)
        .correlate(agent)
        .subquery("failed")
    )
    failures = func.array(select(failed.c.ended_at).order_by(failed.c.launch).scalar_subquery())
    return json_rows(select(agent.table_valued().label("agent"), is_open.label("is_open"), failures.label("failures")))


_SEEN = Read(_facts(), LaunchFacts)


async def of(tx: Transaction, agent_id: str, launch: int) -> Launch | None:
    """Return the launch of an agent with this number, or None."""
    query = select(agent_launches).where(agent_launches.c.agent_id == agent_id, agent_launches.c.launch == launch)
    row = (await tx.connection.execute(query)).mappings().one_or_none()
    return None if row is None else record(row, Launch)


async def seen(reader: Reader, agent_id: str, owner: str) -> LaunchFacts | None:
    """Return an agent with values about its launches; None if the manager `owner` does not own the agent."""
    return await reader.one(_SEEN, agent_id=agent_id, owner=owner)


async def intend(tx: Transaction, agent_id: str, launch: int, key: str) -> None:
    """Store a launch of an agent before its process is requested."""
    row = {"agent_id": agent_id, "launch": launch, "key": key, "started_at": tx.now, "log_offset": 0, "log_lines": 0}
    await tx.connection.execute(insert(agent_launches).values(row))


async def ended(tx: Transaction, agent: AgentRecord, process: AgentProcess | None, reason: str) -> None:
    """Store the end of an agent's newest launch: time, exit code, signal and reason."""
    how = {
        "ended_at": (process.ended_at if process else None) or tx.now,
        "exit_code": process.exit_code if process else None,
        "signal": process.signal if process else None,
        "reason": reason,
    }
    await _note(tx, agent.agent_id, agent.launch, **how)


async def logged(tx: Transaction, agent_id: str, launch: int, offset: int, lines: int) -> None:
    """Store how many bytes and lines of a launch's output the stream of logs contains."""
    await _note(tx, agent_id, launch, log_offset=offset, log_lines=lines)


async def counted(tx: Transaction, agent_id: str) -> int:
    """Return the number of stored launches of an agent."""
    query = select(func.count()).where(agent_launches.c.agent_id == agent_id)
    return (await tx.connection.execute(query)).scalar_one()


async def _note(tx: Transaction, agent_id: str, launch: int, **fields: object) -> None:
    one = (agent_launches.c.agent_id == agent_id) & (agent_launches.c.launch == launch)
    await tx.connection.execute(update(agent_launches).where(one).values(**without_nul(fields)))
