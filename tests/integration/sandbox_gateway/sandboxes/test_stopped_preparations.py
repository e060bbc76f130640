"""A sandbox whose repository is being cloned is stopped, deleted and fenced without waiting for the clone."""

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psutil
import pytest

from muster.common.contracts.gateway import CreateSandbox, DeleteSandbox, FenceSandbox, StopSandbox
from muster.common.contracts.task_spec import Repo
from tests.support.eventually import eventually
from tests.support.gateway import Stack
from tests.support.gateway_life import living_stack, until_state
from tests.support.git_server import GitServer, git_server, repository


@pytest.fixture
def server(tmp_path: Path) -> Generator[GitServer]:
    """A git host that needs hours for a clone."""
    repository(tmp_path / "served" / "a", {"large": os.urandom(200_000)})
    with git_server(tmp_path / "served") as server:
        server.bytes_per_s = 100
        yield server
        server.bytes_per_s = 0


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str, server: GitServer) -> AsyncGenerator[Stack]:
    (tmp_path / "git.toml").write_text(server.toml())
    async with living_stack(tmp_path, nats_url, MUSTER_GIT_FILE=str(tmp_path / "git.toml")) as made:
        yield made


def clones(stack: Stack) -> list[psutil.Process]:
    assert stack.gateway is not None
    return [one for one in psutil.Process(stack.gateway.pid).children(recursive=True) if one.name() == "git"]


async def cloning(stack: Stack, server: GitServer) -> CreateSandbox:
    """Create a sandbox, and return when the git process of its clone receives data."""
    sent = server.sent
    command = await stack.create(repo=Repo(url=server.url("a")))
    await eventually(lambda: _is_true(server.sent > sent and bool(clones(stack))))
    return command


async def _is_true(value: bool) -> bool:
    return value


async def test_a_sandbox_that_is_being_prepared_is_stopped_deleted_and_fenced(stack: Stack, server: GitServer) -> None:
    stopped = await cloning(stack, server)
    answer = await stack.bus.request(StopSandbox(sandbox_id=stopped.sandbox_id, grace_s=0.0), timeout_s=20)
    assert answer.state == "stopped"
    assert not clones(stack)

    deleted = await cloning(stack, server)
    assert (await stack.bus.request(DeleteSandbox(sandbox_id=deleted.sandbox_id), timeout_s=25)).state == "deleted"
    assert not clones(stack)
    assert not (stack.home / "data" / "sandboxes" / deleted.sandbox_id).exists()

    fenced = await cloning(stack, server)
    fence = FenceSandbox(
        sandbox_id=fenced.sandbox_id, task_id=fenced.task_id, agent_id=fenced.agent_id, epoch=1, reason="test"
    )
    await stack.bus.request(fence)
    await until_state(stack, fenced, "fenced")
    await eventually(lambda: _is_true(not clones(stack)))
