"""The provider `daytona` with the real SDK over HTTP, where Daytona's server fails in the ways that users report.

tests/conformance has what every provider does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.common.faults import Conflict, Fault, InvalidMessage, NotFound, Unavailable
from muster.sandbox_gateway.providers.errors import AccessRefused, ProviderBusy, QuotaExceeded
from muster.sandbox_gateway.providers.interface import ProcessSpec, ProcessState, SandboxLayout, SandboxSpec
from tests.support.daytona import connected, daytona_sandboxes
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble
    from muster.daytona_double.clock import ManualClock
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes

ONE = SandboxSpec(sandbox_id="sbx_1", labels={"task": "tsk_1"}, lifetime_s=3600.0)


@pytest.fixture
def clock() -> ManualClock:
    from muster.daytona_double.clock import ManualClock

    return ManualClock()


@pytest.fixture
def double(tmp_path: Path, clock: ManualClock) -> Iterator[DaytonaDouble]:
    from muster.daytona_double import serving

    with serving(tmp_path / "double", clock=clock) as double:
        yield double


@pytest.fixture
async def daytona(double: DaytonaDouble, tmp_path: Path) -> AsyncIterator[DaytonaSandboxes]:
    async with daytona_sandboxes(double, tmp_path / "staging") as provider:
        yield provider


def sleeping(layout: SandboxLayout) -> ProcessSpec:
    return ProcessSpec(key="worker", argv=["sleep", "600"], cwd=layout.workspace, timeout_s=600.0)


async def counted(layout: SandboxLayout, daytona: DaytonaSandboxes) -> bytes:
    return b"".join([chunk async for chunk in daytona.fetch("sbx_1", f"{layout.workspace}/count")])


async def test_a_lost_answer_to_a_creation_makes_no_second_sandbox(
    double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    double.faults.set("lost-create", times=1)
    await daytona.ensure(ONE)
    assert [sandbox.name for sandbox in double.sandboxes] == ["tests-sbx_1"]


@pytest.mark.stress
async def test_every_sandbox_ends_by_itself_and_says_whose_it_is(
    double: DaytonaDouble, daytona: DaytonaSandboxes, clock: ManualClock
) -> None:
    await daytona.ensure(ONE)
    (made,) = double.sandboxes
    assert made.labels["muster.deployment"] == "tests"
    assert made.labels["muster.sandbox"] == "sbx_1"
    assert made.labels["muster.task"] == "tsk_1"
    clock.advance(minutes=61)

    async def gone() -> bool:
        return await daytona.get("sbx_1") is None

    await eventually(gone)


@pytest.mark.stress
async def test_a_sandbox_in_use_is_not_stopped_and_one_without_a_gateway_is(
    daytona: DaytonaSandboxes, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = await daytona.ensure(ONE)
    assert (await daytona.launch("sbx_1", sleeping(layout))).running
    now = 1000.0
    monkeypatch.setattr(daytona, "_monotonic", lambda: now)
    for _ in range(6):
        await daytona.touch(["sbx_1"])
        clock.advance(minutes=6)
        now += 360
        assert (await daytona.poll("sbx_1")) == ProcessState(
            running=True, pid=(state := await daytona.poll("sbx_1")) and state.pid, isolation="daytona"
        )
    clock.advance(minutes=16)

    async def stopped() -> bool:
        state = await daytona.poll("sbx_1")
        return state is not None and not state.running and state.interrupted

    await eventually(stopped)


async def test_a_storm_of_429_says_when_to_try_again(double: DaytonaDouble, daytona: DaytonaSandboxes) -> None:
    double.faults.set("rate-limit", times=2, retry_after=7)
    for _ in range(2):
        with pytest.raises(ProviderBusy) as busy:
            await daytona.ensure(ONE)
        assert busy.value.retry_after_s == 7
    await daytona.ensure(ONE)
    assert len(double.sandboxes) == 1


@pytest.mark.stress
async def test_the_gateway_makes_no_more_sandboxes_a_minute_than_its_setting_allows(
    double: DaytonaDouble, tmp_path: Path
) -> None:
    async with daytona_sandboxes(double, tmp_path / "staging", daytona_creates_per_minute=1) as daytona:
        await daytona.ensure(ONE)
        with pytest.raises(ProviderBusy, match="MUSTER_DAYTONA_CREATES_PER_MINUTE") as busy:
            await daytona.ensure(SandboxSpec(sandbox_id="sbx_2"))
        assert busy.value.retry_after_s is not None
        assert 0 < busy.value.retry_after_s <= 60


@pytest.mark.stress
async def test_a_used_up_quota_is_told_from_a_wrong_request(double: DaytonaDouble, tmp_path: Path) -> None:
    double.faults.set("quota", times=1)
    async with daytona_sandboxes(double, tmp_path / "staging") as daytona:
        with pytest.raises(QuotaExceeded, match="limit exceeded"):
            await daytona.ensure(ONE)
        await daytona.ensure(ONE)
    async with daytona_sandboxes(double, tmp_path / "staging", daytona_snapshot="no-such-snapshot") as daytona:
        with pytest.raises((AccessRefused, InvalidMessage), match="no-such-snapshot"):
            await daytona.ensure(SandboxSpec(sandbox_id="sbx_2"))


@pytest.mark.stress
async def test_a_wrong_key_and_a_server_that_does_not_answer_say_what_to_do(
    double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    double.faults.set("unauthorized", times=1)
    with pytest.raises(AccessRefused, match="MUSTER_DAYTONA_API_KEY") as refused:
        await daytona.ensure(ONE)
    assert double.key not in str(refused.value)
    double.faults.set("unavailable", times=1)
    with pytest.raises(Unavailable):
        await daytona.ensure(ONE)
    double.faults.set("drop", route="POST /sandbox", times=1)
    with suppress(Fault):
        await daytona.ensure(ONE)
    await daytona.ensure(ONE)
    assert len(double.sandboxes) == 1


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
async def test_a_cut_or_shortened_upload_is_noticed_and_leaves_no_file(
    double: DaytonaDouble, daytona: DaytonaSandboxes, tmp_path: Path
) -> None:
    layout = await daytona.ensure(ONE)

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100_000

    for fault in ("cut-upload", "short-upload"):
        double.faults.set(fault, times=1)
        with pytest.raises(Unavailable):
            await daytona.put("sbx_1", f"{layout.workspace}/file", body())
        with pytest.raises(NotFound):
            await anext(daytona.fetch("sbx_1", f"{layout.workspace}/file"))
    source = tmp_path / "given"
    source.mkdir()
    (source / "file").write_bytes(b"y" * 100_000)
    double.faults.set("short-upload", times=1)
    inside = await daytona.provide("sbx_1", "given", source)  # It is sent again.
    read = b"".join([chunk async for chunk in daytona.fetch("sbx_1", f"{inside}/file")])
    assert read == b"y" * 100_000


@pytest.mark.parametrize("fault", ["download-502", "cut-download"])
@pytest.mark.stress
async def test_a_failed_download_is_never_taken_for_a_whole_file(
    fault: str, double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    layout = await daytona.ensure(ONE)

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 200_000

    await daytona.put("sbx_1", f"{layout.workspace}/file", body())
    double.faults.set(fault, times=1)
    with pytest.raises(Unavailable):
        _ = [chunk async for chunk in daytona.fetch("sbx_1", f"{layout.workspace}/file")]


@pytest.mark.stress
async def test_a_deletion_that_gets_stuck_is_tried_until_the_sandbox_is_gone(
    double: DaytonaDouble, daytona: DaytonaSandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await daytona.ensure(ONE)
    monkeypatch.setattr("muster.sandbox_gateway.providers.daytona.sandboxes._GONE_S", 0.2)
    double.faults.set("stuck-destroying")
    with pytest.raises(Unavailable, match="not removed"):
        await daytona.delete("sbx_1")
    assert await daytona.get("sbx_1") is not None
    double.faults.clear()

    async def gone() -> bool:
        with suppress(Fault):
            await daytona.delete("sbx_1")
        return await daytona.get("sbx_1") is None

    with suppress(TimeoutError, AssertionError):
        async with asyncio.timeout(5):
            await eventually(gone)
    await daytona.delete("sbx_2")  # One that never was.


@pytest.mark.stress
async def test_a_sandbox_that_vanishes_has_no_worker(double: DaytonaDouble, daytona: DaytonaSandboxes) -> None:
    layout = await daytona.ensure(ONE)
    await daytona.launch("sbx_1", sleeping(layout))
    double.faults.set("vanish", times=1)
    with suppress(Fault):
        await daytona.poll("sbx_1")
    assert await daytona.poll("sbx_1") is None
    assert await daytona.poll_all() == {}


@pytest.mark.parametrize("recoverable", [True, False])
@pytest.mark.stress
async def test_a_sandbox_that_fails_to_start_is_recovered_or_made_again(
    recoverable: bool, double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    double.faults.set("error-state", times=1, recoverable=recoverable)

    async def made() -> bool:
        with suppress(Fault):
            await daytona.ensure(ONE)
            return True
        return False

    await eventually(made)
    assert len(double.sandboxes) == 1
    layout = await daytona.layout("sbx_1")
    assert (await daytona.launch("sbx_1", sleeping(layout))).running


@pytest.mark.stress
async def test_the_sandboxes_of_another_deployment_are_left_alone(double: DaytonaDouble, tmp_path: Path) -> None:
    from daytona import CreateSandboxFromSnapshotParams

    async with connected(double) as client:
        await client.create(CreateSandboxFromSnapshotParams(name="somebody"))
        await client.create(CreateSandboxFromSnapshotParams(name="tests-sbx_1"))
    async with daytona_sandboxes(double, tmp_path / "a") as daytona:
        assert await daytona.existing() == []
        with pytest.raises(Conflict, match="labels"):
            await daytona.ensure(ONE)
        with pytest.raises(Conflict):
            await daytona.delete("sbx_1")
    assert len(double.sandboxes) == 2


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
async def test_a_sandbox_is_paused_stored_and_reached_by_the_newer_calls(
    double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    layout = await daytona.ensure(ONE)
    assert (await daytona.endpoint("sbx_1", 8000)).startswith("http")
    await daytona.snapshot("sbx_1", "after-setup")
    await daytona.fork("sbx_1", "sbx_2")
    assert {found.sandbox_id for found in await daytona.existing()} == {"sbx_1", "sbx_2"}
    await daytona.launch("sbx_1", sleeping(layout))
    await daytona.pause("sbx_1")
    assert (await daytona.poll("sbx_1")) is not None
    await daytona.ensure(ONE)
    state = await daytona.poll("sbx_1")
    assert state is not None
    assert state.running
    assert await daytona.layout("sbx_1") == layout


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


@pytest.mark.stress
async def test_a_sandbox_that_cannot_be_refreshed_does_not_keep_the_others_from_it(
    double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    await daytona.ensure(ONE)
    await daytona.ensure(SandboxSpec(sandbox_id="sbx_2"))
    first, _ = double.sandboxes
    double.faults.set("unavailable", sandbox=first.id)
    with pytest.raises(Unavailable):
        await daytona.touch(["sbx_1", "sbx_2"])
    assert [count for route, count in double.requests.items() if route.endswith("/last-activity")] == [2]
