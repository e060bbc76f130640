"""The stack with stand-ins for the services: real processes are started in order, restarted, and stopped at the end."""

import asyncio
import base64
import operator
import os
import signal
import stat
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from muster.common.bus.connection import Bus, open_bus
from muster.common.nats_identity.roles import NatsRole
from muster.embedded import program_part
from muster.embedded.config import Restarts, StackConfig
from muster.embedded.nats_server import NatsServer
from muster.embedded.part_supervisor import StackFailedError
from muster.embedded.parts import PortTakenError
from muster.embedded.private_files import write_private
from muster.embedded.processes import ExitedError
from muster.embedded.program_part import ProgramPart
from muster.embedded.programs import Program
from muster.embedded.ready import Ready, read_ready
from muster.embedded.stack import Stack
from muster.embedded.stack_directory import InUseError, fresh_secrets, holder
from tests.support import standin
from tests.support.eventually import eventually
from tests.support.stack import processes_of

STANDIN = str(standin.__file__)
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
"""The stand-ins need no database; without a PostgreSQL server the stack starts faster."""


def program(name: str, **more: object) -> Program:
    fields: dict[str, object] = {"name": name, "arguments": (STANDIN, name), "needs": frozenset({"nats"}), **more}
    fields.setdefault("role", NatsRole.ADMIN)
    return Program(**fields)  # pyright: ignore[reportArgumentType] - each caller names real fields


API = program("management_api", listener="api", needs=frozenset({"nats", "admin_key"}))
GATEWAY = program(
    "sandbox_gateway", listener="gateway", needs=frozenset({"nats", "token_keys", "gateway", "providers"})
)
MANAGER = program("agent_manager", migrates=True, needs=frozenset({"nats", "database"}))


def config(tmp_path: Path, *services: Program, **more: object) -> StackConfig:
    notes = tmp_path / "notes"
    notes.mkdir(exist_ok=True)
    user = {
        "PATH": os.environ["PATH"],
        "MUSTER_NOTES": str(notes),
        "OPENAI_API_KEY": "canary-model",
        "SHELL": "canary-shell",
    }
    fields: dict[str, object] = {
        "data_dir": tmp_path / "muster",
        "ephemeral": True,
        "services": services,
        "shim": None,
        "user_env": user,
        **more,
    }
    return StackConfig(**fields)  # pyright: ignore[reportArgumentType] - as above


async def get(url: str, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        return (await reader.read()).decode().partition("\r\n\r\n")[2]
    finally:
        writer.close()


async def test_ready_stack_answers_passes_settings_and_leaves_no_process(tmp_path: Path) -> None:
    data, second = tmp_path / "muster", tmp_path / "second.json"
    more = {"agent_manager": {"MUSTER_MORE": "1"}}
    async with Stack(
        config(tmp_path, MANAGER, GATEWAY, API, ready_file=second, repo_roots=(tmp_path,), env=more)
    ) as stack:
        ready = stack.ready
        assert set(ready.pids) == {"nats", "postgres", "agent_manager", "sandbox_gateway", "management_api"}
        assert await get(ready.api_url, "/ready") == str(ready.pids["management_api"])
        assert read_ready(data / "ready.json") == read_ready(second) == ready
        assert stat.S_IMODE(second.stat().st_mode) == 0o600
        assert (tmp_path / "notes" / "migrated").exists()
        assert holder(data) == os.getpid()
        assert len(processes_of(data)) >= 5
        each_is_told_what_it_needs_and_no_more(tmp_path, ready)

    assert processes_of(data) == {}
    assert not second.exists()
    assert sorted((tmp_path / "notes" / "stopped").read_text().split()) == [
        "agent_manager",
        "management_api",
        "sandbox_gateway",
    ]


def each_is_told_what_it_needs_and_no_more(tmp_path: Path, ready: Ready) -> None:
    told = {
        name: dict(line.split("=", 1) for line in (tmp_path / "notes" / f"{name}.env").read_text().splitlines())
        for name in ("agent_manager", "sandbox_gateway", "management_api")
    }
    everything = {name: " ".join(env.values()) for name, env in told.items()}

    assert told["agent_manager"]["MUSTER_DATABASE_URL"] == ready.database_url
    assert told["agent_manager"]["MUSTER_MORE"] == "1"
    assert told["management_api"]["MUSTER_ADMIN_KEY"] == ready.admin_key
    assert told["sandbox_gateway"]["OPENAI_API_KEY"] == "canary-model"
    assert told["sandbox_gateway"]["MUSTER_REPO_ROOTS"] == str(tmp_path)
    assert told["sandbox_gateway"]["MUSTER_GATEWAY_URL"] == ready.gateway_url
    holders = {
        secret: {name for name, values in everything.items() if secret in values}
        for secret in ("canary-model", "canary-shell", ready.admin_key, ready.database_url, "MUSTER_TOKEN_KEYS")
    }
    assert holders["canary-shell"] == set()
    assert holders["canary-model"] == {"sandbox_gateway"}
    assert holders[ready.admin_key] == {"management_api"}
    assert holders[ready.database_url] == {"agent_manager"}
    assert {name for name, env in told.items() if "MUSTER_TOKEN_KEYS" in env} == {"sandbox_gateway"}


@pytest.mark.stress
async def test_killed_process_is_restarted_at_the_same_address(tmp_path: Path) -> None:
    async with Stack(config(tmp_path, API)) as stack:
        before = stack.ready
        names = ("nats", "postgres", "management_api")
        pids = {name: await stack.kill(name) for name in names}

        # A request during the restart waits in the API's socket and is not refused.
        assert await get(before.api_url, "/ready") == str(pids["management_api"])
        after = read_ready(tmp_path / "muster" / "ready.json")
        assert after
        assert after.pids == {**before.pids, **pids}
        assert after.restarts == dict.fromkeys(names, 1)
        assert (after.nats_url, after.database_url, after.api_url) == (
            before.nats_url,
            before.database_url,
            before.api_url,
        )


def entered(ready: Ready) -> AbstractAsyncContextManager[Bus]:
    return open_bus(ready.nats_url, "test", credentials=ready.credentials_file)


@pytest.mark.stress
async def test_a_second_up_works_on_the_same_store_with_the_same_credentials(tmp_path: Path) -> None:
    streams = "$JS.API.STREAM"
    async with Stack(config(tmp_path)) as stack, entered(stack.ready) as bus:
        key = stack.ready.admin_key
        await bus.call(f"{streams}.CREATE.KEPT", b'{"name":"KEPT","subjects":["kept"]}', timeout_s=5)
    async with Stack(config(tmp_path)) as stack, entered(stack.ready) as bus:
        assert stack.ready.admin_key == key
        assert b'"KEPT"' in (await bus.call(f"{streams}.NAMES", b"", timeout_s=5)).data


@pytest.mark.stress
async def test_data_directory_without_identities_is_upgraded(tmp_path: Path) -> None:
    data = tmp_path / "muster"
    data.mkdir()
    known = {**msgspec.to_builtins(fresh_secrets()), "nats_password": "of-long-ago"}
    write_private(data / "secrets.json", msgspec.json.encode(known))
    old = NatsServer(data / "nats", password="of-long-ago", log=tmp_path / "nats.log")
    await old.start()
    try:
        async with open_bus(old.url, "before") as bus:
            await bus.call("$JS.API.STREAM.CREATE.KEPT", b'{"name":"KEPT","subjects":["kept"]}', timeout_s=30)
            await bus.call("kept", b"before", timeout_s=30)
    finally:
        await old.stop()

    for _ in range(2):
        async with Stack(config(tmp_path)) as stack, entered(stack.ready) as bus:
            assert "of-long-ago" not in stack.ready.nats_url
            got = await bus.call("$JS.API.STREAM.MSG.GET.KEPT", b'{"last_by_subj":"kept"}', timeout_s=30)
            assert base64.b64encode(b"before") in got.data


async def test_process_that_crashes_too_often_ends_the_stack_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(StackFailedError, match="guardian died 2 times") as failure:
        async with Stack(
            config(tmp_path, program("guardian"), restarts=Restarts(most=2), database_url=NO_DATABASE)
        ) as stack:
            await stack.kill("guardian")
            os.kill(stack.pids["guardian"], signal.SIGKILL)
            await stack.run_until_stopped()

    assert "SIGKILL" in str(failure.value)
    assert processes_of(tmp_path / "muster") == {}


async def test_start_waits_for_a_long_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_part, "STILL_MIGRATING_EVERY_S", 0.02)
    end = tmp_path / "end"
    os.mkfifo(end)
    part = ProgramPart(
        program("agent_manager", arguments=("-c", "import sys; open(sys.argv[1]).read()", str(end))),
        python=sys.executable,
        env={},
        log=tmp_path / "log",
        state=tmp_path,
        socket=tmp_path / "s",
    )
    with capture_logs() as said:
        migrating = asyncio.create_task(part.migrate())
        await eventually(lambda: len(said) > 3)  # The stack logs repeatedly that the migration still runs.
        assert not migrating.done()
        await asyncio.to_thread(end.write_text, "")
        await migrating


async def test_service_that_cannot_start_is_named_with_its_last_lines(tmp_path: Path) -> None:
    crashing = {"guardian": {"STANDIN_CRASHES": "1"}}
    with pytest.raises(ExitedError, match=r"guardian exited with 3(.|\n)*about to crash"):
        async with Stack(config(tmp_path, API, program("guardian"), env=crashing, database_url=NO_DATABASE)):
            pass
    assert processes_of(tmp_path / "muster") == {}


async def test_a_data_directory_takes_one_stack_at_a_time(tmp_path: Path) -> None:
    async with Stack(config(tmp_path, database_url=NO_DATABASE)):
        with pytest.raises(InUseError, match=f"pid {os.getpid()}"):
            async with Stack(config(tmp_path)):
                pass
    assert holder(tmp_path / "muster") is None


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    from muster.embedded.config import FREE_PORTS, Ports
    from muster.embedded.parts import listening_socket

    with listening_socket("someone else", 0) as taken:
        port = taken.getsockname()[1]
        for ports in (Ports(api=port, gateway=0), Ports(api=0, gateway=0, nats=port, postgres=0)):
            assert ports != FREE_PORTS
            with pytest.raises(PortTakenError, match=str(port)):
                async with Stack(config(tmp_path, ports=ports)):
                    pass


async def test_servers_given_by_url_are_used_and_not_started(tmp_path: Path, nats_url: str, database_url: str) -> None:
    urls = {"nats_url": nats_url, "database_url": database_url}
    async with Stack(config(tmp_path, MANAGER, **urls)) as stack:
        assert set(stack.pids) == {"agent_manager"}
        assert (stack.ready.nats_url, stack.ready.database_url) == (nats_url, database_url)


async def test_a_very_long_data_directory_still_has_short_sockets(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / "muster"
    async with Stack(config(tmp_path, GATEWAY, data_dir=deep, database_url=NO_DATABASE)):
        env = (tmp_path / "notes" / "sandbox_gateway.env").read_text()
    path = next(line for line in env.splitlines() if line.startswith("MUSTER_GATEWAY_SOCKET=")).partition("=")[2]
    assert len(path) <= 100
    assert not Path(path).parent.exists()


PARENT = """
import asyncio, sys
from pathlib import Path
from muster.embedded.config import StackConfig
from muster.embedded.stack import Stack
async def main():
    async with Stack(StackConfig(data_dir=Path(sys.argv[1]), ephemeral=True, services=(), shim=None)) as stack:
        print("ready", flush=True)
        await stack.run_until_stopped()
asyncio.run(main())
"""


async def test_no_process_survives_a_stack_killed_with_9(tmp_path: Path) -> None:
    data = tmp_path / "muster"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(data)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert any(line == b"ready\n" for line in parent.stdout)
        ready = read_ready(data / "ready.json")
        assert ready
        living = processes_of(data)
        assert set(ready.pids.values()) <= set(living)

        parent.kill()

    await eventually(lambda: processes_of(data), operator.not_)
    assert holder(data) is None


def test_ready_json_has_the_fields_of_its_contract() -> None:
    named = {"api_url", "gateway_url", "nats_url", "database_url", "admin_key", "pids", "data_dir", "version"}
    assert named <= {field.name for field in msgspec.structs.fields(Ready)}
