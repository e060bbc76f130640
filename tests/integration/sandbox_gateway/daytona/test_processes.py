"""A process in a sandbox at Daytona runs once, and its state is never wrong, whatever the server or the agent does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.common.faults import Fault, NotFound, Unavailable
from muster.sandbox_gateway.providers.interface import ProcessSpec, SandboxLayout
from tests.support.daytona import ONE, sleeping
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes


async def counted(layout: SandboxLayout, daytona: DaytonaSandboxes) -> bytes:
    return b"".join([chunk async for chunk in daytona.fetch("sbx_1", f"{layout.workspace}/count")])


@pytest.mark.stress
async def test_a_lost_answer_to_a_start_runs_the_process_once(double: DaytonaDouble, daytona: DaytonaSandboxes) -> None:
    layout = await daytona.ensure(ONE)
    argv = ["/bin/sh", "-c", "echo started >> count; sleep 600"]
    process = ProcessSpec(key="worker", argv=argv, cwd=layout.workspace, timeout_s=600.0)
    double.faults.set("drop", route="POST /process/session/*/exec", times=1)
    with pytest.raises(Fault):
        await daytona.launch("sbx_1", process)
    for _ in range(2):
        assert (await daytona.launch("sbx_1", process)).running

    async def started() -> bool:
        with suppress(NotFound):
            return await counted(layout, daytona) == b"started\n"
        return False

    await eventually(started)


@pytest.mark.stress
async def test_a_sandbox_that_vanishes_has_no_worker(double: DaytonaDouble, daytona: DaytonaSandboxes) -> None:
    layout = await daytona.ensure(ONE)
    await daytona.launch("sbx_1", sleeping(layout))
    double.faults.set("vanish", times=1)
    with suppress(Fault):
        await daytona.poll("sbx_1")
    assert await daytona.poll("sbx_1") is None
    assert await daytona.poll_all() == {}


@pytest.mark.stress
async def test_an_exit_that_daytona_never_reports_is_known_all_the_same(
    double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    double.faults.set("no-exit-code")
    layout = await daytona.ensure(ONE)
    process = ProcessSpec(key="worker", argv=["/bin/sh", "-c", "exit 9"], cwd=layout.workspace, timeout_s=60.0)
    await daytona.launch("sbx_1", process)
    assert (await daytona.wait("sbx_1", "worker", deadline_s=PATIENCE_S)).exit_code == 9


@pytest.mark.stress
@pytest.mark.parametrize(
    "answer", ["nonsense", '{"known":true,"pid":"evil"}', '{"running":true}', '{"known":true,"exit_code":1e9}']
)
async def test_a_program_that_the_agent_has_replaced_gives_no_wrong_state(
    answer: str, daytona: DaytonaSandboxes
) -> None:
    layout = await daytona.ensure(ONE)
    await daytona.launch("sbx_1", sleeping(layout))
    (program,) = Path(layout.workspace).parent.glob("process_program-*.py")
    program.write_text(f"print('muster-sandbox-agent:' + {answer!r})")
    with pytest.raises(Unavailable, match="wrong answer"):
        await daytona.poll("sbx_1")
    assert (await daytona.poll_all())["sbx_1"].running


@pytest.mark.stress
async def test_a_program_that_the_agent_has_replaced_cannot_fill_the_memory_of_the_gateway(
    daytona: DaytonaSandboxes,
) -> None:
    layout = await daytona.ensure(ONE)
    await daytona.launch("sbx_1", sleeping(layout))
    (program,) = Path(layout.workspace).parent.glob("process_program-*.py")
    honest = program.read_text()
    program.write_text("print('x' * (9 << 20)); print('muster-sandbox-agent:' + '{\"known\":false}')")
    with pytest.raises(Unavailable, match="exceeds 8388608 bytes"):
        await daytona.poll("sbx_1")
    program.write_text(honest)
    state = await daytona.poll("sbx_1")
    assert state is not None
    assert state.running, "the next call works"
