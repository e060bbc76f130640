"""The whole API, as its document describes it, under schemathesis: every check, and nothing found.

API and manager are real processes with real NATS and PostgreSQL; guardian and gateway are doubles, so that no task of
a thousand made-up ones is ever begun.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.embedded.nats_server import NatsServer
from tests.support.api import ADMIN_KEY, api_process, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually
from tests.support.house import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.prefork import started

OPTIONS = ("--generation-deterministic", "--request-timeout=30", "--warnings=off")
SHORT = pytest.param(("--phases=examples", "--max-examples=1"), 40, id="short")
LONG = pytest.param(("--max-examples=5",), 1000, id="long", marks=pytest.mark.stress)


@contextmanager
def manager_process(nats_url: str, database_url: str, home: Path) -> Generator[None]:
    """Run `python -m muster.agent_manager` with a migrated schema."""
    settings = {
        "MUSTER_NATS_URL": nats_url,
        "MUSTER_DATABASE_URL": database_url,
        "MUSTER_DEFAULT_PACKAGE": "echo",
        "MUSTER_DEFAULT_MODEL": "scripted/x",
        "MUSTER_MAX_RUNNING": "1",
        "MUSTER_MAX_PENDING": "100000",
    }
    env = {**os.environ, **settings}
    with (home / "agent_manager.log").open("ab") as log:
        assert started("muster.agent_manager", "migrate", env=env, stderr=log).wait(PATIENCE_S) == 0
        process = started("muster.agent_manager", env=env, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("options", "least_cases"), [SHORT, LONG])
async def test_schemathesis_finds_nothing(
    shared_nats: NatsServer, database_url: str, tmp_path: Path, options: tuple[str, ...], least_cases: int
):
    url = shared_nats.url
    with manager_process(url, database_url, tmp_path), api_process(url, tmp_path, database_url) as api:
        async with neighbours(url, manager=False) as doubles:
            doubles.get = doubles.bus.request  # pyright: ignore[reportAttributeAccessIssue] - guardian: as the manager says
            await _until_there(Caller(api))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", str(ROOT / "tests/support/schemathesis.toml")),
                *(
                    "run",
                    f"{api.url}/openapi.json",
                    "--header",
                    f"Authorization: Bearer {ADMIN_KEY}",
                    *OPTIONS,
                    *options,
                ),
                env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            told = (await process.communicate())[0].decode()

        assert process.returncode == 0, told
        cases = re.search(r"(\d+) generated", told)
        assert cases, told
        assert int(cases[1]) >= least_cases
        assert "Traceback" not in api.log()


async def _until_there(caller: Caller) -> None:
    await eventually(lambda: caller.ask("GET", "/api/v1/packages"), lambda told: told.status == 200)
