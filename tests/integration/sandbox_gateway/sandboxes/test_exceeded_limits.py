"""A sandbox that was stopped for a limit: the report to the manager, and the sandbox's view."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from muster.common.contracts.gateway import GetSandbox
from muster.common.contracts.packages import DEFAULT_RESOURCES
from muster.shim.client import ShimClient
from tests.support.gateway import Stack
from tests.support.gateway_life import living_stack, manager_double, until_state

pytestmark = pytest.mark.stress


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with living_stack(tmp_path, nats_url) as made:
        yield made


async def test_worker_over_a_limit_is_lost_with_the_limit_and_its_attempt_counts(stack: Stack) -> None:
    why = "over its limit of disk space: its files use 4 MiB, more than 1 MiB (resources.disk_bytes)"
    async with manager_double(stack) as manager, ShimClient(stack.home / "shim.sock") as shim:
        command = await stack.create([{"act": "work", "times": 1000, "every_ms": 20}])
        await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 4)
        await until_state(stack, command, "running")
        await shim.stop(f"sbx:{command.sandbox_id}", exceeded=why)
        report = await manager.next(command.sandbox_id)
        assert (report.reason, report.interrupted, report.final) == (why, False, False)
        await until_state(stack, command, "lost")
        view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
        assert (view.error, view.exceeded) == (why, why)
        assert view.limits is not None
        assert view.limits.memory_bytes == DEFAULT_RESOURCES.memory_bytes
        assert view.limited_by in ("cgroup", "rlimits")
