"""Runs a gateway, a shim and a double of the agent manager, for tests of a sandbox's whole life."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from muster.common.bus.connection import open_bus
from muster.common.bus.service import Service
from muster.common.contracts.gateway import CreateSandbox, GetSandbox
from muster.common.contracts.sandbox_log import Frame, FrameKind
from muster.common.contracts.tasks import EpochAnswer, ReportExit
from tests.support.eventually import eventually
from tests.support.gateway import Stack, process
from tests.support.patience import PATIENCE_S


class ManagerDouble:
    """A double of the agent manager that collects the gateway's reports of worker exits."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[ReportExit] = asyncio.Queue()

    async def take(self, report: ReportExit) -> EpochAnswer:
        self.reports.put_nowait(report)
        return EpochAnswer(task_id=report.task_id, epoch=report.epoch, result="replacing")

    async def next(self, sandbox_id: str) -> ReportExit:
        async with asyncio.timeout(PATIENCE_S):
            while (report := await self.reports.get()).sandbox_id != sandbox_id:
                continue
        return report


@asynccontextmanager
async def living_stack(home: Path, nats_url: str, **env: str) -> AsyncGenerator[Stack]:
    """Start a shim and a gateway and yield them; `env` adds settings of the gateway. A test may restart the gateway."""
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_url, "test"))
        made = Stack(home, nats_url, bus)
        made.env |= env
        made.shim = await opened.enter_async_context(process(*made.shim_argv, env={}))
        await opened.enter_async_context(made.pool)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


@asynccontextmanager
async def manager_double(stack: Stack) -> AsyncGenerator[ManagerDouble]:
    """Run a double of the agent manager that answers the gateway's reports."""
    taking = ManagerDouble()
    service = Service("agent_manager", stack.bus)
    service.handles(ReportExit, taking.take)
    async with service:
        yield taking


def kinds(frames: list[Frame]) -> list[str]:
    return [str(frame.kind) for frame in frames]


def finished(frames: list[Frame]) -> bool:
    return any(frame.kind is FrameKind.FINISHED for frame in frames)


async def until_state(stack: Stack, command: CreateSandbox, state: str) -> None:
    asked = GetSandbox(sandbox_id=command.sandbox_id)
    await eventually(lambda: stack.bus.request(asked), lambda sandbox: sandbox.state == state)
