"""Workers and gateways are killed in every state: reports, adoption of running workers, and repair."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from muster.common.bus.buckets import Bucket
from muster.common.clock import utc_now
from muster.common.contracts.gateway import CollectEvidence, CreateSandbox, VerifySandbox
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.contracts.task_spec import Repo
from muster.common.ids import new_id
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from tests.support.gateway import Stack, process
from tests.support.gateway_life import ManagerDouble, finished, kinds, living_stack, manager_double, until_state
from tests.support.patience import PATIENCE_S
from tests.support.process_agents import write_package


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with living_stack(tmp_path, nats_url) as made:
        yield made


@pytest.fixture
async def manager(stack: Stack) -> AsyncGenerator[ManagerDouble]:
    async with manager_double(stack) as taking:
        yield taking


async def test_a_killed_gateway_finds_its_workers_again(stack: Stack) -> None:
    command = await stack.create([{"act": "work", "times": 60, "every_ms": 25}, {"finish": "success"}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 10)
    for _ in range(2):
        await stack.end(signal.SIGKILL)
        await asyncio.sleep(0.3)
        await stack.start()
    frames = await stack.until(command.sandbox_id, finished)
    # One message, sixty actions with observations and two final events, each exactly once.
    assert frames[-1].next == 124
    await until_state(stack, command, "stopped")
    assert (await stack.bus.request(VerifySandbox(sandbox_id=command.sandbox_id))).ok


async def test_a_worker_that_dies_is_reported_and_lost(stack: Stack, manager: ManagerDouble) -> None:
    command = await stack.create([{"act": "true"}, {"exit": 9}])
    report = await manager.next(command.sandbox_id)
    assert (report.epoch, report.exit_code, report.interrupted) == (1, 9, False)
    await until_state(stack, command, "lost")
    evidence = await stack.bus.request(CollectEvidence(sandbox_id=command.sandbox_id))
    assert evidence.exit_code == 9
    assert evidence.missing == []
    assert evidence.unsent == 4 - (evidence.next_seq - 1)  # the message, the action, its observation, the exit


@pytest.mark.stress
async def test_report_of_a_crashed_worker_contains_its_last_output(stack: Stack, manager: ManagerDouble) -> None:
    write_package(stack.packages, "broken", "raise ImportError('no such\\x1b[31m luck')", modes=["sandbox"])
    command = await stack.create(package="broken")
    report = await manager.next(command.sandbox_id)
    assert report.reason == (
        "its worker ended with exit code 1 before it reported a result; "
        "the last line of its output: ImportError: no such [31m luck"
    )


async def test_worker_stopped_by_its_host_is_reported_as_interrupted(stack: Stack, manager: ManagerDouble) -> None:
    command = await stack.create([{"act": "work", "times": 1000, "every_ms": 20}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 4)
    await stack.end()
    assert stack.shim is not None
    stack.shim.terminate()
    await asyncio.to_thread(stack.shim.wait, PATIENCE_S)
    async with process(*stack.shim_argv, env={}):
        await stack.start()
        report = await manager.next(command.sandbox_id)
        await until_state(stack, command, "lost")
        await stack.end()
    assert (report.interrupted, report.final) == (True, False)
    assert report.reason.startswith("interrupted: ")


@pytest.mark.stress
async def test_a_worker_that_cannot_start_is_reported_as_such(stack: Stack, manager: ManagerDouble) -> None:
    directory = stack.home / "data" / "sandboxes"
    directory.rmdir()
    directory.write_text("in the way")
    command = await stack.create()
    report = await manager.next(command.sandbox_id)
    assert report.exit_code is None
    assert report.reason.startswith("could not be started: ")
    await until_state(stack, command, "error")
    assert kinds(await stack.frames(command.sandbox_id)) == ["opened"]


async def test_gateway_killed_at_any_point_repairs_its_records_at_the_next_start(
    stack: Stack, manager: ManagerDouble
) -> None:
    """The records are in every state that a crash can leave, with more or fewer of the sandbox's resources."""
    host = (stack.home / "data" / "host-id").read_text()
    await stack.end(signal.SIGKILL)
    bucket = Bucket(stack.bus, "sandboxes", SandboxRecord)

    async def left(state: Any, **changes: Any) -> CreateSandbox:
        whose = LogOwner(new_id("sbx"), new_id("tsk"), new_id("agt"), 1)
        if changes.pop("opened", True):
            whose, _ = await stack.born()
        asked = CreateSandbox(
            sandbox_id=whose.sandbox_id,
            task_id=whose.task_id,
            agent_id=whose.agent_id,
            epoch=1,
            conversation_id="c",
            package="echo",
            model="scripted/hello",
            objective="o",
            repo=changes.pop("repo", None),
        )
        record = SandboxRecord(create=asked, host=host, provider="local", created_at=utc_now(), state=state, **changes)
        await bucket.create(whose.sandbox_id, record)
        return asked

    intent = await left("creating", opened=False)
    opened = await left("creating")
    half_made = await left("creating")
    (stack.home / "data" / "sandboxes" / half_made.sandbox_id / "workspace").mkdir(parents=True)
    vanished = await left("running")
    stopping = await left("stopping", wanted="stopped")
    deleting = await left("running", wanted="deleted")
    repo_gone = await left("creating", repo=Repo(url=(stack.home / "repos" / "gone").as_uri()))
    await stack.start()
    for command in (intent, opened, half_made):
        assert kinds(await stack.until(command.sandbox_id, finished)).count("opened") == 1
        await until_state(stack, command, "stopped")
    async with asyncio.timeout(PATIENCE_S):
        reports = {report.sandbox_id: report for report in [await manager.reports.get() for _ in range(2)]}
    assert (reports[vanished.sandbox_id].exit_code, reports[vanished.sandbox_id].final) == (None, False)
    assert reports[repo_gone.sandbox_id].final
    assert "does not exist" in reports[repo_gone.sandbox_id].reason
    await until_state(stack, vanished, "lost")
    await until_state(stack, stopping, "stopped")
    await until_state(stack, deleting, "deleted")
    assert kinds(await stack.frames(deleting.sandbox_id)) == ["opened", "closed"]
    assert {frame.kind for frame in await stack.frames(vanished.sandbox_id)} == {FrameKind.OPENED}


@pytest.mark.stress
async def test_stopping_gateway_leaves_its_workers_running(stack: Stack) -> None:
    command = await stack.create([{"act": "work", "times": 40, "every_ms": 25}, {"finish": "success"}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 4)
    assert await stack.end() == 0
    await stack.start()
    await stack.until(command.sandbox_id, finished)
