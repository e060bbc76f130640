"""The real gateway runs workers in Daytona's sandboxes: the real SDK over HTTP, with the double as the server."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.common.contract import decode
from muster.common.contracts.gateway import DeleteSandbox, ExecInSandbox, GetSandbox, VerifySandbox
from muster.common.contracts.sandbox_log import Finished, Opened
from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from tests.support.daytona import gateway_settings
from tests.support.eventually import eventually
from tests.support.gateway import Stack
from tests.support.gateway_life import finished, kinds, living_stack, manager_double, until_state
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble


@pytest.fixture
def double(tmp_path: Path) -> Iterator[DaytonaDouble]:
    from muster.daytona_double import serving

    with serving(tmp_path / "double") as double:
        yield double


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str, double: DaytonaDouble) -> AsyncIterator[Stack]:
    async with living_stack(tmp_path, nats_url, **gateway_settings(double)) as made:
        yield made


async def test_spawn_for_a_task_environment_injected_worker_uploaded_and_started_terminate_idempotent(
    stack: Stack, double: DaytonaDouble
) -> None:
    """M11: "spawn for task, environment injected, worker uploaded and started, terminate idempotent"."""
    command = await stack.create(
        [{"write": {"path": "a.txt", "text": "hi\n"}}, {"finish": "success", "summary": "done"}],
        provider="daytona",
        env={"COLOUR": "blue"},
    )
    frames = await stack.until(command.sandbox_id, finished, PATIENCE_S)
    assert decode(bytes(frames[0].body), Opened).isolation == "daytona"
    result = decode(bytes(frames[-1].body), Finished)
    assert (result.outcome, "+hi" in result.diff) == ("success", True)
    await until_state(stack, command, "stopped")
    (made,) = double.sandboxes
    assert made.labels["muster.task"] == command.task_id
    view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
    assert (view.provider, view.isolation, view.exit_code) == ("daytona", "daytona", 0)
    for _ in range(2):
        ran = await stack.bus.request(
            ExecInSandbox(sandbox_id=command.sandbox_id, key="read", command="cat a.txt; echo $COLOUR; exit 3"),
            timeout_s=PATIENCE_S,
        )
        assert (ran.exit_code, ran.output) == (3, "hi\nblue\n")

    async def deleted() -> bool:
        gone = await stack.bus.request(DeleteSandbox(sandbox_id=command.sandbox_id), timeout_s=PATIENCE_S)
        return gone.state == "deleted"

    await eventually(deleted)
    assert await deleted()
    assert double.sandboxes == []
    assert (await stack.bus.request(VerifySandbox(sandbox_id=command.sandbox_id))).ok


@pytest.mark.stress
async def test_a_worker_that_is_killed_in_its_sandbox_is_reported(stack: Stack) -> None:
    async with manager_double(stack) as manager:
        command = await stack.create([{"sleep_ms": 600_000}], provider="daytona")
        await until_state(stack, command, "running")
        view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
        assert view.pid is not None
        os.kill(view.pid, signal.SIGKILL)
        report = await manager.next(command.sandbox_id)
    assert (report.exit_code, report.final) == (137, False)


@pytest.mark.stress
async def test_a_repository_reaches_the_sandbox_and_the_gateway_takes_the_worker_over_after_its_own_death(
    stack: Stack, double: DaytonaDouble
) -> None:
    repository = stack.home / "repos" / "one"
    script = (
        f"git init -q -b main {repository} && cd {repository} && echo hello > a.txt && git add . "
        "&& git -c user.name=T -c user.email=t@t.invalid commit -qm one"
    )
    subprocess.run(["/bin/sh", "-c", script], check=True)
    steps = [
        {"sleep_ms": 4_000},
        {"write": {"path": "b.txt", "text": "hello\n"}},
        {"finish": "success", "summary": "done"},
    ]
    command = await stack.create(steps, provider="daytona", repo=Repo(url=repository.as_uri()))
    await until_state(stack, command, "running")
    await stack.end(signal.SIGKILL)
    await stack.start()
    frames = await stack.until(command.sandbox_id, finished, PATIENCE_S)
    assert kinds(frames).count("opened") == 1
    assert "+hello" in decode(bytes(frames[-1].body), Finished).diff
    assert len(double.sandboxes) == 1
    await until_state(stack, command, "stopped")


@pytest.mark.stress
async def test_a_sandbox_waits_for_the_quota_and_says_so(stack: Stack, double: DaytonaDouble) -> None:
    double.faults.set("quota")
    command = await stack.create([{"finish": "success", "summary": "done"}], provider="daytona")

    async def waits() -> bool:
        view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
        return view.state == "creating" and "limit exceeded" in (view.waiting or "")

    await eventually(waits)
    assert await stack.frames(command.sandbox_id) == []  # The guardian would replace an open log without a worker.
    double.faults.clear()
    await stack.until(command.sandbox_id, finished, PATIENCE_S)
    view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
    assert view.waiting is None


async def test_a_provider_that_the_deployment_does_not_have_is_refused_by_name(stack: Stack) -> None:
    with pytest.raises(InvalidMessage, match="local, daytona") as refused:
        await stack.create(provider="moon")
    assert refused.value.field == "$.provider"
