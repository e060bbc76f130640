"""Agents as processes of their own on a real NATS server, asked and told as the manager does it."""

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
from muster.common.identity.credentials import read_credentials
from muster.common.identity.roles import Role
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


async def test_a_message_is_answered_once_and_the_outcome_told_to_whoever_listens(echo: Resident) -> None:
    first = await echo.order("message", message_id="msg_1", text="hi", sender="ann")
    again = await echo.order("message", message_id="msg_1", text="hi", sender="ann")
    assert first.status == "success"
    assert first.result == again.result == {"message_id": "msg_1", "state": "answered", "answer": "> hi"}
    await echo.until(lambda: len(echo.answered) == 2)
    assert [(told.command, told.result) for told in echo.answered] == [("message", first.result)] * 2
    lines = [msgspec.json.decode(line) for line in echo.said.splitlines()]
    echoed = [line for line in lines if line["event"] == "echoed"]
    assert [(line["level"], line["text"], line["sender"]) for line in echoed] == [("info", "> hi", "ann")]


async def test_status_health_and_metrics_are_the_agents_own(moody: Resident, tmp_path: Path) -> None:
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


async def test_what_it_cannot_do_is_answered_with_the_reason_and_the_field(echo: Resident) -> None:
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


async def test_a_refusal_reaches_the_sender_and_a_bug_does_not_leak(moody: Resident) -> None:
    refused = await moody.order("message", message_id="msg_1", text="refuse")
    failed = await moody.order("message", message_id="msg_2", text="fail")
    cancelled = await moody.order("message", message_id="msg_4", text="cancel")
    assert (cancelled.error or {})["code"] == "internal"
    assert refused.error == {"code": "conflict", "status": 409, "detail": "not today", "field": "$.text"}
    assert failed.error
    assert failed.error["code"] == "internal"
    assert "4711" not in str(failed)
    assert "4711" in moody.said, "but its own log has it"
    assert (await moody.order("message", message_id="msg_3", text="on we go")).status == "success"


async def test_a_long_answer_is_accepted_at_once_and_told_when_it_is_there(moody: Resident) -> None:
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


async def test_beats_are_numbered_say_when_the_next_is_due_and_a_change_is_told_at_once(
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
async def test_it_stops_when_told_and_says_so_with_its_last_beat(moody: Resident, how: str) -> None:
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


async def test_a_restart_makes_a_new_agent_in_the_same_process(echo: Resident) -> None:
    await echo.order("message", message_id="msg_1", text="one")
    assert (await echo.order("restart")).result == {"state": "restarting", "restarts": 1}
    await echo.order("message", message_id="msg_2", text="two")
    status, metrics = (await echo.order("status")).result, (await echo.ask("metrics")).result
    assert status is not None
    assert metrics is not None
    assert (status["pid"], status["restarts"]) == (echo.process.pid, 1)
    assert metrics["echoed"] == 1.0, "the new one has echoed once"


async def test_an_agent_that_cannot_start_or_dies_ends_with_a_code_of_its_own(
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


async def test_it_outlives_the_server_and_can_be_asked_again(nats_server: Restartable, tmp_path: Path) -> None:
    async with open_bus(nats_server.url, "test") as bus, resident(bus, nats_server.url, tmp_path) as echo:
        await echo.beating()
        await nats_server.kill()
        await echo.until_said("nats disconnected")
        await asyncio.sleep(2.5)  # some beats long: they must not come all at once afterwards
        last = echo.beats[-1].n
        assert echo.process.poll() is None, echo.said
        await nats_server.start()
        async with asyncio.timeout(60):
            await bus.connected.wait()
        await echo.until(lambda: echo.beats[-1].n > last)
        assert (await echo.order("message", message_id="msg_1", text="still here")).status == "success"
        numbers = [beat.n for beat in echo.beats]
        assert numbers == sorted(set(numbers)), "none twice, none late"


async def test_it_stops_in_good_time_while_the_server_is_away(nats_server: Restartable, tmp_path: Path) -> None:
    async with open_bus(nats_server.url, "test") as bus, resident(bus, nats_server.url, tmp_path) as echo:
        await echo.beating()
        await nats_server.kill()
        await echo.until_said("nats disconnected")
        echo.process.send_signal(signal.SIGTERM)
        assert await echo.ended() == 0, echo.said
        assert '"event":"agent process ended"' in echo.said, "by itself, and not by its last word"
        assert "Traceback" not in echo.said, echo.said
        await nats_server.start()


async def test_it_starts_without_a_server_and_is_there_when_one_comes(nats_server: Restartable, tmp_path: Path) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        await nats_server.kill()
        async with resident(bus, nats_server.url, tmp_path) as echo:
            await echo.until_said("not connected to NATS")
            await nats_server.start()
            async with asyncio.timeout(60):
                await bus.connected.wait()
            await echo.beating()


async def test_an_idle_one_is_small(echo: Resident) -> None:
    process = psutil.Process(echo.process.pid)
    used = process.cpu_times()
    assert used.user + used.system < 1.0  # 0.15 s on the machine this was written on; the budget is 0.5
    assert process.memory_info().rss < 48 << 20  # 33 MiB there
    loaded = {Path(file.path).parent.name for file in process.memory_maps() if file.path.endswith(".so")}
    assert not {"pydantic_core", "aiohttp"} & loaded


@pytest.fixture
def trust(tmp_path: Path) -> NatsAuthority:
    return NatsAuthority(tmp_path / "trust")


@pytest.fixture
def trusting_url(trust: NatsAuthority, tmp_path: Path) -> Iterator[str]:
    """A server that lets each do what their credentials say."""
    with running(NatsServer(tmp_path / "nats", log=tmp_path / "nats.log", authority=trust)) as server:
        yield server.url


async def test_its_credentials_are_renewed_before_they_expire(
    trust: NatsAuthority, trusting_url: str, tmp_path: Path
) -> None:
    first = trust.credentials(Role.AGENT, name="agt_parrot", ttl_s=8)
    later = trust.credentials(Role.AGENT, name="agt_parrot", ttl_s=600)
    expires_at = read_credentials(first).claims.exp
    told: dict[str, Any] = {"agent_id": "agt_parrot", "credentials": first}
    async with (
        open_bus(trusting_url, "test", credentials=trust.credentials_file(Role.ADMIN)) as bus,
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


async def test_credentials_left_from_an_earlier_launch_are_not_taken(
    trust: NatsAuthority, trusting_url: str, tmp_path: Path
) -> None:
    left = trust.credentials(Role.AGENT, name="agt_other", ttl_s=600)
    (tmp_path / "agent.creds").write_text(left)
    await asyncio.sleep(1.1)  # a token's age is in whole seconds
    told: dict[str, Any] = {
        "agent_id": "agt_parrot",
        "credentials": trust.credentials(Role.AGENT, name="agt_parrot", ttl_s=600),
    }
    async with (
        open_bus(trusting_url, "test", credentials=trust.credentials_file(Role.ADMIN)) as bus,
        resident(bus, trusting_url, tmp_path, **told) as echo,
    ):
        await echo.beating()
        assert (await echo.order("status")).status == "success"
