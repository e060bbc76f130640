"""The end of a launch and the intent of the next, in one statement: a crashed agent waits for it."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text

from muster.agent_manager.domain.agents import Agent
from muster.agent_manager.domain.lifecycle import Process, agent_step
from muster.agent_manager.store import agents as registry
from muster.agent_manager.store.database import CHANGED, Database
from muster.common.contract import encode

_RELAUNCHED = text("""
    WITH held AS (
        UPDATE manager.agents SET state = 'starting', state_since = :now, updated_at = :now, version = version + 2,
            launch = launch + 1, restarts = restarts + 1, pid = NULL, beat = NULL, last_seen = NULL,
            cites = :cites, exit_code = NULL, reason = NULL
        WHERE agent_id = :agent_id AND owner = :owner AND version = :version
        RETURNING agent_id, launch
    ), ended AS (
        UPDATE manager.agent_launches AS l
        SET ended_at = :ended_at, exit_code = :launch_code, signal = :signal, reason = :reason
        FROM held WHERE l.agent_id = held.agent_id AND l.launch = held.launch - 1
    ), begun AS (
        INSERT INTO manager.agent_launches (agent_id, launch, key, started_at, log_offset, log_lines)
        SELECT agent_id, launch, :key, :now, 0, 0 FROM held
    ), told AS (
        INSERT INTO manager.outbox (entity_id, version, event_id, subject, body, created_at)
        SELECT held.agent_id, e.version, e.event_id, e.subject, e.body, :now
        FROM held, (VALUES
            (CAST(:version AS int) + 1, CAST(:id_1 AS text), CAST(:subject_1 AS text), CAST(:body_1 AS bytea)),
            (CAST(:version AS int) + 2, CAST(:id_2 AS text), CAST(:subject_2 AS text), CAST(:body_2 AS bytea))
        ) AS e (version, event_id, subject, body)
        ORDER BY e.version
    )
    SELECT pg_notify(:channel, '') FROM held
""")


async def relaunch(
    database: Database, agent: Agent, owner: str, process: Process, *, reason: str, exit_code: int | None, key: str
) -> tuple[Agent, Agent] | None:
    """The agent in `error`, and then `starting` again; None when it has changed since it was read, or is not ours."""
    async with database.reading() as tx:
        failed, began = _steps(agent, tx.now, reason, exit_code)
        fields: dict[str, Any] = {
            "agent_id": agent.agent_id,
            "owner": owner,
            "version": agent.version,
            "now": tx.now,
            "cites": began.cites,
            "reason": reason,
            "ended_at": process.ended_at or tx.now,
            "launch_code": process.exit_code,
            "signal": process.signal,
            "key": key,
            "channel": CHANGED,
        }
        told = (registry.changed(tx, failed, "error"), registry.changed(tx, began, "starting"))
        for number, event in enumerate(told, 1):
            fields |= {f"id_{number}": event.event_id, f"subject_{number}": event.subject}
            fields[f"body_{number}"] = encode(event)
        stored = (await tx.connection.execute(_RELAUNCHED, fields)).first()
    return None if stored is None else (failed, began)


def _steps(agent: Agent, now: datetime, reason: str, exit_code: int | None) -> tuple[Agent, Agent]:
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
