"""Ends a launch and stores the next one in a single statement, because a crashed agent waits for it.

It uses asyncpg directly, as reads do: SQLAlchemy takes longer.
"""

from datetime import datetime

import msgspec

from muster.agent_manager.database.engine import CHANGED, ManagerDatabase
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess, agent_step
from muster.agent_manager.fleet.store import agents as registry
from muster.common.contract import encode
from muster.common.postgres.reading import Read

_RELAUNCHED = Read(
    f"""
    WITH held AS (
        UPDATE manager.agents SET state = 'starting', state_since = $4, updated_at = $4, version = version + 2,
            launch = launch + 1, restarts = restarts + 1, pid = NULL, beat = NULL, last_seen = NULL,
            cites = $5, exit_code = NULL, reason = NULL
        WHERE agent_id = $1 AND owner = $2 AND version = $3
        RETURNING agent_id, launch
    ), ended AS (
        UPDATE manager.agent_launches AS l SET ended_at = $6, exit_code = $7, signal = $8, reason = $9
        FROM held WHERE l.agent_id = held.agent_id AND l.launch = held.launch - 1
    ), begun AS (
        INSERT INTO manager.agent_launches (agent_id, launch, key, started_at, log_offset, log_lines)
        SELECT agent_id, launch, $10, $4, 0, 0 FROM held
    ), told AS (
        INSERT INTO manager.outbox (entity_id, version, event_id, subject, body, created_at)
        SELECT held.agent_id, e.version, e.event_id, e.subject, e.body, $4
        FROM held, unnest($11::int[], $12::text[], $13::text[], $14::bytea[]) AS e (version, event_id, subject, body)
        ORDER BY e.version
    ), woken AS (
        SELECT pg_notify('{CHANGED}', '') FROM held
    )
    SELECT json_build_object('launch', held.launch) FROM held, woken""",  # noqa: S608 - a constant
    dict[str, int],
)


async def relaunch(
    database: ManagerDatabase,
    agent: AgentRecord,
    owner: str,
    process: AgentProcess,
    *,
    reason: str,
    exit_code: int | None,
    key: str,
) -> tuple[AgentRecord, AgentRecord] | None:
    """Store `error` and then `starting`; None if the agent has changed since it was read, or has another owner."""
    now = database.now()
    failed, began = _steps(agent, now, reason, exit_code)
    told = [
        registry.changed(became, kind, event_id=database.new_id("evt"), at=now)
        for became, kind in ((failed, "error"), (began, "starting"))
    ]
    stored = await database.reader.one(
        _RELAUNCHED,
        *(agent.agent_id, owner, agent.version, now, began.cites),
        *(process.ended_at or now, process.exit_code, process.signal, reason, key),
        *([event.version for event in told], [event.event_id for event in told]),
        *([event.subject for event in told], [encode(event) for event in told]),
    )
    return None if stored is None else (failed, began)


def _steps(agent: AgentRecord, now: datetime, reason: str, exit_code: int | None) -> tuple[AgentRecord, AgentRecord]:
    failed = msgspec.structs.replace(
        agent,
        state=agent_step(agent.state, "error"),
        version=agent.version + 1,
        state_since=now,
        updated_at=now,
        cites=f"exit#{agent.launch}",
        exit_code=exit_code,
        reason=reason,
        pid=None,
    )
    began = msgspec.structs.replace(
        failed,
        state=agent_step("error", "starting"),
        version=failed.version + 1,
        launch=agent.launch + 1,
        restarts=agent.restarts + 1,
        cites=f"agents#{agent.agent_id}/{failed.version + 1}",
        reason=None,
        exit_code=None,
        beat=None,
        last_seen=None,
    )
    return failed, began
