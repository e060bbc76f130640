"""The provider `daytona` with the real SDK over HTTP, where Daytona's server fails in the ways that users report.

tests/conformance has what every provider does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.common.faults import Conflict, Fault, InvalidMessage, Unavailable
from muster.sandbox_gateway.providers.errors import AccessRefused, ProviderBusy, QuotaExceeded
from muster.sandbox_gateway.providers.interface import ProcessState, SandboxSpec
from tests.support.daytona import ONE, connected, daytona_sandboxes, sleeping
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble
    from muster.daytona_double.clock import ManualClock
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes


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
        with pytest.raises((AccessRefused, InvalidMessage), match=r"no-such-snapshot.*MUSTER_DAYTONA_SNAPSHOT"):
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
