"""An attempt shows the isolation of its sandbox, which the gateway writes into the sandbox log."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.common.contract import decode
from muster.common.contracts.gateway import GetSandbox
from muster.common.contracts.sandbox_log import Opened
from tests.support.gateway_life import living_stack, until_state
from tests.support.managed import Place, open_place
from tests.support.servers import Restartable


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with open_place(nats_server.url, manager_database_url) as place:
        yield place


async def test_attempt_shows_the_isolation_from_the_opened_frame(place: Place) -> None:
    async with place.manager():
        task = await place.submit()
        done = await place.until_state(task.task_id, "completed")
    assert [attempt.isolation for attempt in done.attempts] == ["walls"]


@pytest.mark.isolation
async def test_local_sandbox_is_isolated_and_its_log_and_view_show_it(tmp_path: Path, nats_url: str) -> None:
    async with living_stack(tmp_path, nats_url) as stack:
        command = await stack.create([{"finish": "success", "summary": "done"}])
        await until_state(stack, command, "stopped")
        view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
        frames = await stack.until(command.sandbox_id, bool)
    assert decode(bytes(frames[0].body), Opened).isolation == "bubblewrap"
    assert view.isolation == "bubblewrap"
