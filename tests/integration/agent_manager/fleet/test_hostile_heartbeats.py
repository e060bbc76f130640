"""Heartbeats and metrics that no table can store are refused one by one, and the manager continues."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from muster.agent_manager.fleet.reconcilers import heartbeats
from muster.common.clock import utc_now
from muster.common.contracts.agent_health import GetAgentMetrics
from muster.common.contracts.agent_process import AgentBeat, AgentMeasured
from muster.common.contracts.agents import AgentView
from muster.common.contracts.worker_api import Beat
from tests.support.eventually import eventually
from tests.support.process_agents import AgentPlace, agent_place, write_package

SLEEPER = "import time; time.sleep(1000)"
HUGE = b"1" + b"0" * 250
BEAT = (
    b'{"agent_id":"%(agent)s","launch":1,"n":%(n)s,"next_within_s":%(due)s,"beat":{"state":"idle","busy":"none",'
    b'"since":"2026-01-01T00:00:00Z","events":%(events)s,"acked":0,"epoch":1}}'
)
METRICS = b'{"agent_id":"%(agent)s","launch":1,"at":"2026-01-01T00:00:00Z","metrics":{"rss_bytes":%(gauge)s}}'
MODEST = {b"n": b"1", b"due": b"5", b"events": b"0"}


@pytest.fixture
async def place(
    nats_url: str, manager_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AgentPlace]:
    monkeypatch.setattr(heartbeats, "FLUSH_EVERY_S", 0.05)
    # Logs are captured because structlog's console takes seconds to render the trace of a database error.
    with capture_logs():
        async with agent_place(nats_url, manager_database_url, tmp_path) as place:
            write_package(place.packages, "sleeper", SLEEPER)
            yield place


def beat(view: AgentView, n: int, state: Literal["idle", "running"] = "running") -> AgentBeat:
    said = Beat(state=state, busy="none", since=utc_now(), events=0, acked=0, epoch=view.launch)
    return AgentBeat(agent_id=view.agent_id, launch=view.launch, n=n, beat=said, next_within_s=5.0)


async def send_hostile(place: AgentPlace, agent_id: str) -> None:
    """Send messages with numbers that JSON allows and PostgreSQL cannot store, repeatedly as an agent does."""
    agent = {b"agent": agent_id.encode()}
    for name, number in (
        (b"n", HUGE),
        (b"n", b"1" + b"0" * 5000),
        (b"n", b"1e400"),
        (b"n", b"9223372036854775808"),
        (b"due", b"1e400"),
        (b"events", HUGE),
    ):
        await place.bus.send(f"agent.{agent_id}.status", BEAT % {**MODEST, **agent, name: number})
    for gauge in (b"1e400", b"1" + b"0" * 400, b"NaN"):
        await place.bus.send(f"agent.{agent_id}.metrics", METRICS % {**agent, b"gauge": gauge})


async def until_measured(place: AgentPlace, view: AgentView, value: float) -> None:
    async def stored() -> bool:
        answer = await place.bus.request(GetAgentMetrics(agent_id=view.agent_id), timeout_s=30)
        return answer.metrics == {"rss_bytes": value}

    await eventually(stored)


async def test_numbers_beyond_every_column_are_refused_and_later_beats_count_also_after_a_restart(
    place: AgentPlace,
) -> None:
    async with place.manager():
        view = await place.started("sleeper")
        await send_hostile(place, view.agent_id)
        await place.bus.publish(beat(view, 1, "idle"))
        first = await place.until_state(view.agent_id, "idle")
    async with place.manager():
        await place.until(view.agent_id, lambda now: now.owner is not None and now.owner != first.owner)
        await send_hostile(place, view.agent_id)
        measured = AgentMeasured(agent_id=view.agent_id, launch=1, at=first.created_at, metrics={"rss_bytes": 1e300})

        async def told() -> bool:
            await place.bus.publish(beat(view, 2))
            await place.bus.publish(measured)
            return (await place.get(view.agent_id)).state == "running"

        await eventually(told)
        await until_measured(place, view, 1e300)
        second = await place.get(view.agent_id)

    assert (first.cites, second.cites) == ("beat#1", "beat#2")


async def test_an_agent_whose_row_refuses_its_beats_keeps_no_other_agent_from_being_stored(place: AgentPlace) -> None:
    async with place.manager():
        view, other = await place.started("sleeper"), await place.started("sleeper")
        async with place.database.begin() as tx:
            await tx.connection.execute(
                text(
                    "ALTER TABLE manager.agents ADD CONSTRAINT refuses_beats CHECK "
                    f"(agent_id <> '{view.agent_id}' OR last_seen IS NULL)"
                )
            )
        for n in range(1, 8):
            await place.bus.publish(beat(view, n, "idle"))
            await place.bus.publish(beat(other, n))
        await place.until_state(other.agent_id, "running")
        seen = await place.until(other.agent_id, lambda now: now.last_seen is not None)
        await place.bus.publish(beat(other, 8))
        await place.until(other.agent_id, lambda now: now.last_seen != seen.last_seen)
        refused = await place.get(view.agent_id)

    assert (refused.state, refused.last_seen) == ("starting", None)
