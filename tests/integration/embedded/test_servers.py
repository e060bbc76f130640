"""nats-server and PostgreSQL from the wheels keep acknowledged data after `kill -9`, as root and as an ordinary user."""

import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from muster.common.bus.connection import open_bus
from muster.embedded.postgres import Postgres, postgres_binary
from muster.embedded.postgres_user import NOBODY, PostgresUser, closed_to_nobody
from muster.embedded.sql import connected
from tests.support.servers import Restartable, fresh_nats, run_now, running

JS = "$JS.API.STREAM"


async def test_a_message_acknowledged_by_jetstream_survives_kill_9(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        await bus.call(f"{JS}.CREATE.KEPT", b'{"name":"KEPT","subjects":["kept.>"],"storage":"file"}', timeout_s=5)
        ack = await bus.call("kept.one", b"precious", timeout_s=5)
        assert b'"seq":1' in ack.data

    await nats_server.kill()
    await nats_server.start()

    async with open_bus(nats_server.url, "test") as bus:
        found = await bus.call(f"{JS}.MSG.GET.KEPT", b'{"seq":1}', timeout_s=5)
        assert b"cHJlY2lvdXM=" in found.data


def test_the_nats_configuration_is_private_and_syncs_always(tmp_path: Path) -> None:
    with running(fresh_nats(tmp_path)) as server:
        configuration = tmp_path / "nats" / "nats.conf"

        assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
        assert '"sync_interval": "always"' in configuration.read_text()
        assert server.url.partition("@")[0].rpartition(":")[2] not in " ".join(server.running.command.argv)


async def test_a_committed_row_survives_kill_9(postgres_server: Restartable) -> None:
    async with connected(postgres_server.url) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 'precious' AS what")

        await postgres_server.kill()  # with a client connected
    await postgres_server.start()

    async with connected(postgres_server.url) as connection:
        assert await connection.fetchval("SELECT what FROM kept") == "precious"
        settings = [await connection.fetchval(f"SHOW {name}") for name in ("fsync", "data_checksums", "server_version")]
        assert settings[:2] == ["on", "on"]
        assert settings[2].startswith("18.")


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_each_test_has_an_empty_database_of_its_own(turn: str, database_url: str) -> None:
    async with connected(database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        await connection.execute("CREATE TABLE left_behind ()")


async def test_pid_file_of_an_unrelated_process_does_not_prevent_a_start_of_postgres(
    postgres_server: Restartable,
) -> None:
    await postgres_server.kill()
    pid_file = postgres_server.server.running.command.cwd
    assert pid_file
    lines = (pid_file / "postmaster.pid").read_text().splitlines()
    (pid_file / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]))

    await postgres_server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_root_without_user_namespaces_runs_postgres_as_the_user_nobody() -> None:
    # Not below pytest's root directory, because another test run makes that directory private.
    with tempfile.TemporaryDirectory(prefix="muster-nobody-") as place:
        home = Path(place)
        home.chmod(0o711)
        server = Postgres(home / "postgres", password="secret", log=home / "log", identity=PostgresUser.NOBODY)
        # This repository is in a home directory that other users cannot enter.
        if closed := closed_to_nobody(postgres_binary()):
            with pytest.raises(PermissionError, match=re.escape(f"cannot enter {closed}")), running(server):
                raise AssertionError
            return
        with running(server):
            owner = Path(f"/proc/{server.running.pid}").stat().st_uid

            assert owner == NOBODY

            async def restarted() -> None:
                await Restartable(server).kill()
                await server.start()

            run_now(restarted())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_postgres_refuses_with_advice_if_the_user_nobody_cannot_read_the_data(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    home = tmp_path / "closed" / "postgres"
    server = Postgres(home, password="secret", log=tmp_path / "log", identity=PostgresUser.NOBODY)
    with pytest.raises(PermissionError) as refused, running(server):
        raise AssertionError
    assert "PostgreSQL runs as the user nobody here, and this user cannot enter" in str(refused.value)
    assert "--data" in str(refused.value)
    assert not home.exists()


@pytest.mark.stress
@pytest.mark.skipif(os.geteuid() != 0, reason="is the other side of itself")
def test_servers_work_for_an_ordinary_user_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    ordinary = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if subprocess.run([*ordinary, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    again = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-p",
        "no:randomly",
        "-k",
        "kill_9",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env |= {"PYTEST_DEBUG_TEMPROOT": str(tmp_path_factory.mktemp("ordinary"))}

    done = subprocess.run([*ordinary, *again], check=False, capture_output=True, text=True, env=env, timeout=100)

    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
