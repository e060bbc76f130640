"""The life of a sandbox through the real SDK: states, names, quota, lists, intervals, snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import daytona
import pytest

from tests.support.daytona import connected
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from muster.daytona_double import DaytonaDouble
    from tests.support.daytona import StartDouble

pytestmark = pytest.mark.stress


def named(name: str, **fields: object) -> daytona.CreateSandboxFromSnapshotParams:
    return daytona.CreateSandboxFromSnapshotParams.model_validate({"name": name, **fields})


async def state_of(client: AsyncDaytona, name: str) -> str:
    try:
        found = (await client.get(name)).state
    except daytona.DaytonaNotFoundError:
        return "gone"
    return found.value if found else ""


async def test_wrong_key_is_refused_with_401(double: DaytonaDouble) -> None:
    async with connected(double, key="wrong") as client:
        with pytest.raises(daytona.DaytonaAuthenticationError) as refused:
            await client.get("one")

    assert refused.value.status_code == 401


async def test_key_is_wrong_after_it_was_rotated(
    double: DaytonaDouble, client: AsyncDaytona, sandbox: AsyncSandbox
) -> None:
    new = double.rotate_key()

    with pytest.raises(daytona.DaytonaAuthenticationError):
        await sandbox.refresh_data()
    with pytest.raises(daytona.DaytonaAuthenticationError):
        await sandbox.process.exec("true")
    async with connected(double, key=new) as renewed:
        assert (await renewed.get("one")).id == sandbox.id


async def test_second_sandbox_of_a_name_is_refused_with_409(client: AsyncDaytona, sandbox: AsyncSandbox) -> None:
    with pytest.raises(daytona.DaytonaConflictError):
        await client.create(named("one"))

    assert (await client.get("one")).id == sandbox.id


async def test_exceeded_quota_is_refused_with_400_and_says_limit_exceeded(start_double: StartDouble) -> None:
    async with connected(start_double(max_cpu=1)) as client:
        first = await client.create(named("one"))
        with pytest.raises(daytona.DaytonaError, match="limit exceeded") as refused:
            await client.create(named("two"))
        await first.stop()
        await client.create(named("two"))

    assert refused.value.status_code == 400


async def test_unknown_snapshot_is_refused_with_400(client: AsyncDaytona) -> None:
    with pytest.raises(daytona.DaytonaBadRequestError, match="Snapshot nowhere not found"):
        await client.create(named("two", snapshot="nowhere"))


async def test_change_during_a_change_is_refused_with_409(start_double: StartDouble) -> None:
    async with connected(start_double(change_s=0.5)) as client:
        sandbox = await client.create(named("one"))
        await sandbox.delete()
        with pytest.raises(daytona.DaytonaConflictError, match="state change in progress"):
            await sandbox.delete()
        with pytest.raises(daytona.DaytonaConflictError, match="state change in progress"):
            await sandbox.stop()
        await eventually(lambda: state_of(client, "one"), lambda state: state == "gone")


async def test_toolbox_refuses_a_stopped_sandbox_and_its_files_are_there_after_a_start(
    client: AsyncDaytona, sandbox: AsyncSandbox
) -> None:
    await sandbox.fs.upload_file(b"kept", "kept.txt")
    await sandbox.process.create_session("s")
    await sandbox.stop()
    stopped = sandbox.state
    with pytest.raises(daytona.DaytonaError) as refused:
        await sandbox.process.exec("true")
    await sandbox.start()

    assert stopped == daytona.SandboxState.STOPPED
    assert refused.value.status_code == 400
    assert await sandbox.fs.download_file("kept.txt") == b"kept"
    assert await sandbox.process.list_sessions() == [], "the processes of a stopped sandbox have ended"


async def test_archived_sandbox_is_restored_by_a_start(client: AsyncDaytona, sandbox: AsyncSandbox) -> None:
    with pytest.raises(daytona.DaytonaBadRequestError, match="not stopped"):
        await sandbox.archive()
    await sandbox.stop()
    await sandbox.archive()
    await eventually(lambda: state_of(client, "one"), lambda state: state == "archived")
    await sandbox.start()

    assert await state_of(client, "one") == "started"


async def test_paused_sandbox_stands_still_and_goes_on_after_a_start(
    client: AsyncDaytona, sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    counter = double.sandboxes[0].workdir / "counter"
    await sandbox.process.create_session("s")
    counting = "i=0; while true; do i=$((i+1)); echo $i > counter.new; mv counter.new counter; sleep 0.01; done"
    await sandbox.process.execute_session_command("s", daytona.SessionExecuteRequest(command=counting, run_async=True))
    await eventually(counter.exists)
    await sandbox.pause()
    paused, first = sandbox.state, counter.read_text()
    await state_of(client, "one")
    second = counter.read_text()
    await sandbox.start()

    assert paused == daytona.SandboxState.PAUSED
    assert first == second
    await eventually(lambda: counter.read_text() if counter.exists() else first, lambda now: now != first)


async def test_labels_are_replaced_as_a_whole(client: AsyncDaytona, sandbox: AsyncSandbox) -> None:
    await sandbox.set_labels({"only": "this"})

    assert (await client.get("one")).labels == {"only": "this"}


async def test_list_has_pages_and_labels_and_no_environment(client: AsyncDaytona) -> None:
    for number in range(5):
        await client.create(named(str(number), labels={"odd": str(number % 2)}, env_vars={"A": "b"}))

    query = daytona.ListSandboxesQuery(limit=2)
    every = [item async for item in client.list(query)]
    odd = [item.name async for item in client.list(daytona.ListSandboxesQuery(labels={"odd": "1"}))]

    assert [item.name for item in every] == ["4", "3", "2", "1", "0"]
    assert odd == ["3", "1"]
    assert {str(item.env) for item in every} == {"None"}


async def test_list_is_late_and_get_is_not(start_double: StartDouble) -> None:
    async with connected(start_double(list_lag_s=0.6)) as client:
        sandbox = await client.create(named("one"))
        at_once = [item.name async for item in client.list()]
        await eventually(lambda: listed(client), lambda names: names == ["one"])
        await sandbox.delete(wait=True)
        still = await listed(client)
        await eventually(lambda: listed(client), lambda names: names == [])

    assert at_once == []
    assert still == ["one"]


async def listed(client: AsyncDaytona) -> list[str]:
    return [item.name async for item in client.list()]


async def test_idle_sandbox_is_stopped_and_later_deleted_unless_activity_is_refreshed(
    start_double: StartDouble,
) -> None:
    from muster.daytona_double import ManualClock

    clock = ManualClock()
    async with connected(start_double(clock=clock)) as client:
        sandbox = await client.create(named("one", auto_stop_interval=15, auto_delete_interval=60))
        clock.advance(minutes=10)
        await sandbox.refresh_activity()
        clock.advance(minutes=10)
        refreshed = await state_of(client, "one")
        clock.advance(minutes=6)
        await eventually(lambda: state_of(client, "one"), lambda state: state == "stopped")
        clock.advance(minutes=61)
        await eventually(lambda: state_of(client, "one"), lambda state: state == "gone")

    assert refreshed == "started"


async def test_time_to_live_destroys_a_sandbox_in_use(start_double: StartDouble) -> None:
    from muster.daytona_double import ManualClock

    clock = ManualClock()
    async with connected(start_double(clock=clock)) as client:
        sandbox = await client.create(named("one", auto_stop_interval=0))
        await sandbox.set_ttl(30)
        clock.advance(minutes=29)
        before = await state_of(client, "one")
        clock.advance(minutes=2)
        await eventually(lambda: state_of(client, "one"), lambda state: state == "gone")

    assert before == "started"


async def test_ephemeral_sandbox_is_deleted_when_it_stops(client: AsyncDaytona) -> None:
    sandbox = await client.create(named("one", ephemeral=True))
    await sandbox.stop()

    await eventually(lambda: state_of(client, "one"), lambda state: state == "gone")


async def test_fork_has_a_copy_of_the_files(client: AsyncDaytona, sandbox: AsyncSandbox) -> None:
    await sandbox.fs.upload_file(b"first", "file.txt")
    forked = await sandbox.fork("two")
    await sandbox.fs.upload_file(b"second", "file.txt")

    assert await forked.fs.download_file("file.txt") == b"first"
    assert forked.name == "two"


async def test_sandbox_from_a_snapshot_has_its_files(client: AsyncDaytona, sandbox: AsyncSandbox) -> None:
    await sandbox.fs.upload_file(b"content", "file.txt")
    await sandbox.create_snapshot("mine")
    made = await client.create(named("two", snapshot="mine"))
    snapshots = {item.name for item in (await client.snapshot.list()).items}

    assert await made.fs.download_file("file.txt") == b"content"
    assert "mine" in snapshots
    assert (await client.get("one")).state == daytona.SandboxState.STARTED


async def test_sandbox_from_an_image_has_the_resources_that_were_asked_for(client: AsyncDaytona) -> None:
    resources = daytona.Resources(cpu=2, memory=4, disk=8)
    made = await client.create(daytona.CreateSandboxFromImageParams(image="debian:12", resources=resources))

    assert (made.cpu, made.memory, made.disk) == (2, 4, 8)
    # A late event `sandbox.created` can set `made.state` back, so only the API knows the state.
    assert await state_of(client, made.id) == "started"


async def test_error_that_is_recoverable_recovers_and_another_does_not(
    client: AsyncDaytona, sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    double.fail("one", "no space left", recoverable=True)
    await sandbox.refresh_data()
    seen = (sandbox.state, sandbox.error_reason, sandbox.recoverable)
    await sandbox.recover()
    recovered = sandbox.state
    double.fail("one", recoverable=False)

    assert seen == (daytona.SandboxState.ERROR, "no space left", True)
    assert recovered == daytona.SandboxState.STARTED
    with pytest.raises(daytona.DaytonaBadRequestError):
        await sandbox.recover()
    await sandbox.delete(wait=True)


async def test_network_settings_and_intervals_are_kept(client: AsyncDaytona, sandbox: AsyncSandbox) -> None:
    await sandbox.update_network_settings(network_block_all=True, network_allow_list="10.0.0.0/8")
    await sandbox.set_autostop_interval(7)
    await sandbox.set_auto_delete_interval(8)
    await sandbox.set_auto_archive_interval(9)
    found = await client.get("one")

    assert (found.network_block_all, found.network_allow_list) == (True, "10.0.0.0/8")
    assert (found.auto_stop_interval, found.auto_delete_interval, found.auto_archive_interval) == (7, 8, 9)


async def test_preview_of_a_port_is_reached_and_a_signed_one_expires_once(sandbox: AsyncSandbox) -> None:
    link = await sandbox.get_preview_link(8080)
    signed = await sandbox.create_signed_preview_url(8080)
    await sandbox.expire_signed_preview_url(8080, signed.token)

    assert link.url == "http://127.0.0.1:8080"
    with pytest.raises(daytona.DaytonaBadRequestError):
        await sandbox.expire_signed_preview_url(8080, signed.token)


@pytest.mark.parametrize("events", [True, False])
async def test_waits_end_with_and_without_the_event_socket(start_double: StartDouble, events: bool) -> None:
    async with connected(start_double(events=events, change_s=0.3)) as client:
        sandbox = await client.create(named("one"))
        await sandbox.stop()
        await sandbox.delete(wait=True)

        assert await state_of(client, "one") == "gone"
