"""Credentials of each agent are written and renewed independently of other agents' failures."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from muster.agent_manager.fleet.adapters.directories import write_private
from muster.agent_manager.fleet.reconcilers.ownership import CredentialRenewal
from muster.common.faults import Conflict
from tests.support.patience import PATIENCE_S


def test_obstacle_at_the_path_of_a_private_file_is_replaced_or_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "secret" / "deep").mkdir(parents=True)
    write_private(tmp_path / "secret", b"told")
    assert (tmp_path / "secret").read_bytes() == b"told"
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]

    with pytest.raises(Conflict, match="cannot be written to"):
        write_private(tmp_path / "secret" / "run", b"told")


async def test_agent_that_blocks_its_own_renewal_blocks_no_other() -> None:
    renewed, twice = list[str](), asyncio.Event()

    async def renew(_: object) -> None:
        return

    def write(agent_id: str, _launch: int, _file: Path) -> None:
        if agent_id == "bars":
            raise Conflict("its own directory is in the way")
        renewed.append(agent_id)
        if len(renewed) == 2:
            twice.set()

    def credentials_file(agent: Any) -> Path:
        return Path(agent.agent_id)

    workers: Any = SimpleNamespace(renew=renew, credentials_file=credentials_file)
    credentials: Any = SimpleNamespace(ttl_s=0.0, renew=write)
    renewals = CredentialRenewal(workers, credentials, every_s=0.01)
    for agent_id in ("bars", "other"):
        agent: Any = SimpleNamespace(agent_id=agent_id, launch=1)
        renewals.keep(agent)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(renewals.run())
        await twice.wait()
        running.cancel()
    assert renewed == ["other", "other"]
