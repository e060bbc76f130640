"""Agent processes on a real NATS server receive the requests that the manager sends."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.clock import utc_now
from muster.common.nats_identity.credentials import read_credentials
from muster.common.nats_identity.roles import NatsRole
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.nats_server import NatsServer
from tests.support.resident import Resident, resident
from tests.support.servers import Restartable, running

MOODY = '''
"""An agent whose every answer depends on what it is told."""

import asyncio
import sys

from muster.agent.base import Agent, AgentMessage
from muster.agent.entry import run_agent
from muster.common.faults import Conflict


class Moody(Agent):
    async def start(self) -> None:
        print("hello from a print")
        if self.context.config.get("start") == "raise":
            raise RuntimeError("no such luck")

    async def on_message(self, message: AgentMessage) -> str:
        match message.text.split():
            case ["refuse"]:
                raise Conflict("not today", field="$.text")
            case ["fail"]:
                raise RuntimeError("secret 4711")
            case ["cancel"]:
                raise asyncio.CancelledError
            case ["exit", code]:
                sys.exit(int(code))
            case ["sleep", seconds]:
                await asyncio.sleep(float(seconds))
            case _:
                pass
        return message.text

    async def health(self) -> dict[str, object]:
        if (self.context.state_dir / "ill").exists():
            raise RuntimeError("ill")
        return {"mood": "good"}

    async def metrics(self) -> dict[str, float]:
        return {"mood": 1.0, "nothing": float("nan")}


if __name__ == "__main__":
    sys.exit(run_agent(Moody))
'''


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with open_bus(nats_url, "test") as bus:
        yield bus


@pytest.fixture
async def echo(bus: Bus, nats_url: str, tmp_path: Path) -> AsyncIterator[Resident]:
    async with resident(bus, nats_url, tmp_path, config={"prefix": "> "}) as echo:
        await echo.beating()
        yield echo


@pytest.fixture
async def moody(bus: Bus, nats_url: str, tmp_path: Path) -> AsyncIterator[Resident]:
    (tmp_path / "moody.py").write_text(MOODY)
    async with resident(bus, nats_url, tmp_path, module="moody", path=tmp_path) as moody:
        await moody.beating()
        yield moody


async def test_message_is_answered_once_and_its_outcome_is_published(echo: Resident) -> None:
    first = await echo.order("message", message_id="msg_1", text="hi", sender="ann")
    again = await echo.order("message", message_id="msg_1", text="hi", sender="ann")
    assert first.status == "success"
    assert first.result == again.result == {"message_id": "msg_1", "state": "answered", "answer": "> hi"}
    await echo.until(lambda: len(echo.answered) == 2)
    assert [(told.command, told.result) for told in echo.answered] == [("message", first.result)] * 2
    lines = [msgspec.json.decode(line) for line in echo.said.splitlines()]
    echoed = [line for line in lines if line["event"] == "echoed"]
    assert [(line["level"], line["text"], line["sender"]) for line in echoed] == [("info", "> hi", "ann")]


async def test_status_health_and_metrics_come_from_the_agent(moody: Resident, tmp_path: Path) -> None:
    status = (await moody.order("status")).result
    assert status is not None
    assert (status["pid"], status["launch"], status["state"]) == (moody.process.pid, 3, "idle")
    assert (await moody.ask("health")).result == {"status": "ok", "mood": "good"}
    (tmp_path / "state" / "ill").touch()
    assert (await moody.ask("health")).result == {"status": "failing", "error": "RuntimeError: ill"}
    metrics = (await moody.ask("metrics")).result
    assert metrics is not None
    assert metrics["mood"] == 1.0
    assert "nothing" not in metrics
    assert metrics["cpu_s"] > 0 < metrics["rss_bytes"]
    await moody.until(lambda: moody.measured)
    assert moody.measured[0].launch == 3
    assert moody.measured[0].metrics["mood"] == 1.0
    assert "hello from a print" in moody.said.splitlines()


async def test_unsupported_command_is_refused_with_reason_and_field(echo: Resident) -> None:
    subject = f"agent.{echo.handoff.agent_id}.command"
    dance, stale = await echo.order("dance"), await echo.order("stop", launch=2)
    wordless = await echo.order("message", message_id="msg_1")
    other = await echo.bus.call(subject, b'{"agent_id":"agt_x","command":"stop","launch":3}', timeout_s=30)
    garbage = await echo.bus.call(subject, b"\xff{", timeout_s=30)
    found = [answer.error for answer in (dance, stale, wordless)]
    found += [msgspec.json.decode(answer.data)["error"] for answer in (other, garbage)]
    assert [(error["code"], error["field"]) for error in found if error] == [
        ("invalid_message", "$.command"),
        ("conflict", "$.launch"),
        ("invalid_message", "$.params.text"),
        ("invalid_message", "$.agent_id"),
        ("invalid_message", "$"),
    ]
    assert (dance.status, dance.command) == ("error", "dance")
    assert "message" in str(found[0]), "it says what there is"
    assert (await echo.order("status")).status == "success", "and nothing of it stopped it"


async def test_refusal_or_exception_of_the_agent_reaches_the_sender_and_the_log_has_its_traceback(
    moody: Resident,
) -> None:
    refused = await moody.order("message", message_id="msg_1", text="refuse")
    failed = await moody.order("message", message_id="msg_2", text="fail")
    cancelled = await moody.order("message", message_id="msg_4", text="cancel")
    assert (cancelled.error or {})["detail"] == "CancelledError"
    assert refused.error == {"code": "conflict", "status": 409, "detail": "not today", "field": "$.text"}
    error = {"code": "agent_failed", "status": 500, "detail": "RuntimeError: secret 4711", "field": None}
    assert failed.error == error
    records = [msgspec.json.decode(line) for line in moody.said.splitlines() if line.startswith("{")]
    (logged,) = [record for record in records if record.get("message_id") == "msg_2"]
    assert "in on_message" in logged["exception"]
    assert (await moody.order("message", message_id="msg_3", text="on we go")).status == "success"


async def test_slow_answer_is_accepted_at_once_and_published_later(moody: Resident) -> None:
    accepted = await moody.order("message", message_id="msg_1", text="sleep 5")
    assert accepted.result == {"message_id": "msg_1", "state": "accepted", "answer": None}
    await moody.beating("running")
    waits = await moody.order("message", message_id="msg_2", text="later")
    urgent = await moody.order("message", message_id="msg_3", text="now", urgent=True)
    assert waits.status == urgent.status == "success"
    assert (urgent.result or {})["state"] == "answered"
    await moody.until(lambda: [told for told in moody.answered if (told.result or {}).get("answer") == "sleep 5"])
    await moody.beating("idle")
    assert (await moody.order("message", message_id="msg_2", text="later")).result == {
        "message_id": "msg_2",
        "state": "answered",
        "answer": "later",
    }


async def test_heartbeats_have_numbers_and_intervals_and_a_change_is_published_at_once(
    bus: Bus, nats_url: str, tmp_path: Path
) -> None:
    async with resident(bus, nats_url, tmp_path, beat_idle_s=3600.0) as echo:
        await echo.beating()
        assert 3600.0 <= echo.beats[0].next_within_s <= 1.5 * 3600.0
        await echo.order("message", message_id="msg_1", text="hi")
        await echo.until(lambda: echo.beats[-1].beat.acked == 1)
        assert [beat.n for beat in echo.beats] == list(range(1, len(echo.beats) + 1))
        assert {beat.launch for beat in echo.beats} == {3}


@pytest.mark.parametrize("how", ["sigterm", "order"])
async def test_agent_stops_on_request_and_reports_it_in_its_last_heartbeat(moody: Resident, how: str) -> None:
    await moody.order("message", message_id="msg_1", text="sleep 3600")
    if how == "order":
        assert (await moody.order("stop")).result == {"state": "stopping"}
    else:
        moody.process.send_signal(signal.SIGTERM)
    assert await moody.ended() == 0, moody.said
    await moody.beating("stopping")
    await moody.until(lambda: [told for told in moody.answered if told.error])
    cut = next(told.error for told in moody.answered if told.error)
    assert cut["code"] == "unavailable", "who waited for an answer learns that there will be none"


async def test_restart_creates_a_new_agent_object_in_the_same_process(echo: Resident) -> None:
    await echo.order("message", message_id="msg_1", text="one")
    assert (await echo.order("restart")).result == {"state": "restarting", "restarts": 1}
    await echo.order("message", message_id="msg_2", text="two")
    status, metrics = (await echo.order("status")).result, (await echo.ask("metrics")).result
    assert status is not None
    assert metrics is not None
    assert (status["pid"], status["restarts"]) == (echo.process.pid, 1)
    assert metrics["echoed"] == 1.0, "the new one has echoed once"


async def test_failed_start_and_crash_of_an_agent_have_distinct_exit_codes(
    moody: Resident, bus: Bus, nats_url: str, tmp_path: Path
) -> None:
    await moody.bus.send(
        f"agent.{moody.handoff.agent_id}.command",
        msgspec.json.encode(
            {
                "agent_id": moody.handoff.agent_id,
                "command": "message",
                "launch": 3,
                "params": {"message_id": "m", "text": "exit 7"},
            }
        ),
    )
    assert await moody.ended() == 7
    async with resident(bus, nats_url, tmp_path, module="moody", path=tmp_path, config={"start": "raise"}) as broken:
        assert await broken.ended() == 70
        assert "no such luck" in broken.said


async def test_agent_survives_a_restart_of_nats_and_answers_again(nats_server: Restartable, tmp_path: Path) -> None:
    async with open_bus(nats_server.url, "test") as bus, resident(bus, nats_server.url, tmp_path) as echo:
        await echo.beating()
        await nats_server.kill()
        await echo.until_said("nats disconnected")
        await asyncio.sleep(2.5)  # The outage lasts several heartbeats, which must not all be sent afterwards.
        last = echo.beats[-1].n
        assert echo.process.poll() is None, echo.said
        await nats_server.start()
        async with asyncio.timeout(60):
            await bus.connected.wait()
        await echo.until(lambda: echo.beats[-1].n > last)
        assert (await echo.order("message", message_id="msg_1", text="still here")).status == "success"
        numbers = [beat.n for beat in echo.beats]
        assert numbers == sorted(set(numbers)), "none twice, none late"


async def test_late_answer_is_delivered_after_an_outage_of_nats_and_until_it_is_confirmed(
    nats_server: Restartable, tmp_path: Path
) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    async with (
        open_bus(nats_server.url, "test") as bus,
        resident(bus, nats_server.url, tmp_path, module="moody", path=tmp_path) as moody,
    ):
        await moody.beating()
        await moody.order("message", message_id="msg_1", text="sleep 2")
        await nats_server.kill()
        await moody.until_said("message was answered")
        await nats_server.start()
        await moody.until(lambda: [one.message_id for one in moody.answered].count("msg_1") == 2)
        delivered = [one for one in moody.answered if one.message_id]
        assert delivered[0].result == {"message_id": "msg_1", "state": "answered", "answer": "sleep 2"}


async def test_agent_stops_in_time_while_nats_is_unreachable(nats_server: Restartable, tmp_path: Path) -> None:
    async with open_bus(nats_server.url, "test") as bus, resident(bus, nats_server.url, tmp_path) as echo:
        await echo.beating()
        await nats_server.kill()
        await echo.until_said("nats disconnected")
        echo.process.send_signal(signal.SIGTERM)
        assert await echo.ended() == 0, echo.said
        assert '"event":"agent process ended"' in echo.said, "by itself, and not by its last word"
        assert "Traceback" not in echo.said, echo.said
        await nats_server.start()


async def test_agent_starts_without_nats_and_connects_later(nats_server: Restartable, tmp_path: Path) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        await nats_server.kill()
        async with resident(bus, nats_server.url, tmp_path) as echo:
            await echo.until_said("could not connect to nats")
            await nats_server.start()
            async with asyncio.timeout(60):
                await bus.connected.wait()
            await echo.beating()


async def test_idle_agent_uses_little_memory(echo: Resident) -> None:
    process = psutil.Process(echo.process.pid)
    used = process.cpu_times()
    assert used.user + used.system < 1.0  # Measured 0.15 s; the budget is 0.5 s.
    assert process.memory_info().rss < 48 << 20  # Measured 33 MiB.
    loaded = {Path(file.path).parent.name for file in process.memory_maps() if file.path.endswith(".so")}
    assert not {"pydantic_core", "aiohttp"} & loaded


@pytest.fixture
def trust(tmp_path: Path) -> NatsAuthority:
    return NatsAuthority(tmp_path / "trust")


@pytest.fixture
def trusting_url(trust: NatsAuthority, tmp_path: Path) -> Iterator[str]:
    """The URL of a NATS server that grants the permissions of each client's credentials."""
    with running(NatsServer(tmp_path / "nats", log=tmp_path / "nats.log", authority=trust)) as server:
        yield server.url


async def test_agent_uses_renewed_credentials_before_the_old_ones_expire(
    trust: NatsAuthority, trusting_url: str, tmp_path: Path
) -> None:
    first = trust.credentials(NatsRole.AGENT, name="agt_parrot", ttl_s=8)
    later = trust.credentials(NatsRole.AGENT, name="agt_parrot", ttl_s=600)
    expires_at = read_credentials(first).claims.exp
    told: dict[str, Any] = {"agent_id": "agt_parrot", "credentials": first}
    async with (
        open_bus(trusting_url, "test", credentials=trust.credentials_file(NatsRole.ADMIN)) as bus,
        resident(bus, trusting_url, tmp_path, **told) as echo,
    ):
        await echo.beating()
        Path(echo.handoff.credentials_file).write_text(later)
        await echo.until_said("nats reconnected")
        await asyncio.sleep(max(0.0, expires_at - utc_now().timestamp() + 0.5))
        answer = await echo.order("message", message_id="msg_1", text="still here")
        assert (answer.result or {})["answer"] == "still here"
        before = len(echo.beats)
        await echo.until(lambda: len(echo.beats) > before)
        assert "BEGIN USER NKEY SEED" not in echo.said
        assert not (tmp_path / "handoff.json").exists()


async def test_credentials_file_of_an_earlier_launch_is_not_used(
    trust: NatsAuthority, trusting_url: str, tmp_path: Path
) -> None:
    left = trust.credentials(NatsRole.AGENT, name="agt_other", ttl_s=600)
    (tmp_path / "agent.creds").write_text(left)
    await asyncio.sleep(1.1)  # A token's times are whole seconds.
    told: dict[str, Any] = {
        "agent_id": "agt_parrot",
        "credentials": trust.credentials(NatsRole.AGENT, name="agt_parrot", ttl_s=600),
    }
    async with (
        open_bus(trusting_url, "test", credentials=trust.credentials_file(NatsRole.ADMIN)) as bus,
        resident(bus, trusting_url, tmp_path, **told) as echo,
    ):
        await echo.beating()
        assert (await echo.order("status")).status == "success"
