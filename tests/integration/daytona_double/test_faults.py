"""Faults of the double, as the real SDK reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


async def test_lost_answer_to_create_raises_and_the_sandbox_exists(client: AsyncDaytona, double: DaytonaDouble) -> None:
    double.faults.set("lost-create", times=1)

    with pytest.raises(daytona.DaytonaConnectionError):
        await client.create(named("one"))
    found = await client.get("one")

    assert found.state == daytona.SandboxState.STARTED
    assert double.faults.struck == {"lost-create": 1}
    assert double.requests["POST /sandbox"] == 1


@pytest.mark.parametrize("retry_after", [None, 7])
async def test_storm_of_429_ends_after_its_count(
    client: AsyncDaytona, double: DaytonaDouble, retry_after: int | None
) -> None:
    double.faults.set("rate-limit", times=2, retry_after=retry_after, route="POST /sandbox")

    refused: list[daytona.DaytonaError] = []
    for _ in range(2):
        with pytest.raises(daytona.DaytonaRateLimitError) as one:
            await client.create(named("one"))
        refused.append(one.value)
    await client.create(named("one"))

    assert [header(error, "retry-after") for error in refused] == [retry_after and str(retry_after)] * 2


def header(error: daytona.DaytonaError, name: str) -> str | None:
    return {key.lower(): value for key, value in error.headers.items()}.get(name)


async def test_quota_is_a_400_that_says_limit_exceeded(client: AsyncDaytona, double: DaytonaDouble) -> None:
    double.faults.set("quota", times=1)

    with pytest.raises(daytona.DaytonaBadRequestError, match="limit exceeded"):
        await client.create(named("one"))
    await client.create(named("one"))


async def test_conflict_strikes_changes_only(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    double.faults.set("conflict", times=1)

    await sandbox.refresh_data()
    with pytest.raises(daytona.DaytonaConflictError):
        await sandbox.delete()
    await sandbox.delete(wait=True)


async def test_502_on_a_download_is_an_error_and_the_next_download_works(
    sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    await sandbox.fs.upload_file(b"content", "file.txt")
    double.faults.set("download-502", times=1)

    with pytest.raises(daytona.DaytonaError) as bad:
        await sandbox.fs.download_file("file.txt")

    assert bad.value.status_code is None, "the SDK loses the status of a failed download"
    assert await sandbox.fs.download_file("file.txt") == b"content"


async def test_download_that_is_cut_is_an_error(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    await sandbox.fs.upload_file(b"x" * 1_000_000, "file.txt")
    double.faults.set("cut-download", times=1)

    with pytest.raises(daytona.DaytonaError):
        await sandbox.fs.download_file("file.txt")


async def test_upload_that_is_cut_leaves_the_file_of_before(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    await sandbox.fs.upload_file(b"before", "file.bin")
    double.faults.set("cut-upload", times=1)

    with pytest.raises(daytona.DaytonaError):
        await sandbox.fs.upload_file(b"x" * 5_000_000, "file.bin")

    assert await sandbox.fs.download_file("file.bin") == b"before"
    assert [file.name for file in await sandbox.fs.list_files(".")] == ["file.bin"]


async def test_short_upload_is_answered_as_if_it_were_whole(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    double.faults.set("short-upload", times=1)
    await sandbox.fs.upload_file(b"0123456789", "file.bin")

    assert (await sandbox.fs.get_file_info("file.bin")).size == 5


async def test_stuck_sandbox_stays_destroying_until_the_fault_is_cleared(
    client: AsyncDaytona, sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    double.faults.set("stuck-destroying", sandbox="one")
    await sandbox.delete()
    with pytest.raises(daytona.DaytonaTimeoutError):
        await (await client.get("one")).wait_for_sandbox_stop(timeout=1)
    stuck = (await client.get("one")).state
    double.faults.clear("stuck-destroying")

    assert stuck == daytona.SandboxState.DESTROYING
    await eventually(lambda: [one.name for one in double.sandboxes], lambda names: names == [])


async def test_vanished_sandbox_is_not_found_and_its_toolbox_neither(
    client: AsyncDaytona, sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    double.faults.set("vanish", times=1, route="POST /process/execute")

    with pytest.raises(daytona.DaytonaNotFoundError):
        await sandbox.process.exec("true", timeout=5)
    with pytest.raises(daytona.DaytonaNotFoundError):
        await client.get("one")


@pytest.mark.parametrize("recoverable", [True, False])
async def test_sandbox_that_fails_to_start_is_in_error(
    client: AsyncDaytona, double: DaytonaDouble, recoverable: bool
) -> None:
    double.faults.set("error-state", times=1, recoverable=recoverable)

    with pytest.raises(daytona.DaytonaError, match="injected by the double"):
        await client.create(named("one"))
    found = await client.get("one")

    assert (found.state, found.recoverable) == (daytona.SandboxState.ERROR, recoverable)


async def test_slow_route_runs_into_the_clients_timeout_and_others_do_not(
    sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    double.faults.set("slow", seconds=20, route="GET /sandbox/*")

    with pytest.raises(daytona.DaytonaTimeoutError):
        await sandbox.refresh_data(request_timeout=1)
    await sandbox.refresh_activity()


async def test_exit_code_that_is_never_reported(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    double.faults.set("no-exit-code", times=1)
    await sandbox.process.create_session("s")
    request = daytona.SessionExecuteRequest(command="echo done", run_async=True)
    silent = (await sandbox.process.execute_session_command("s", request)).cmd_id
    later = (await sandbox.process.execute_session_command("s", request)).cmd_id
    await eventually(
        lambda: sandbox.process.get_session_command("s", later), lambda command: command.exit_code is not None
    )

    assert (await sandbox.process.get_session_command("s", silent)).exit_code is None
    assert (await sandbox.process.get_session_command_logs("s", silent)).output == "done\n"


async def test_dropped_log_socket_is_an_error_and_the_log_can_be_read_again(
    sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    double.faults.set("drop-logs", times=1)
    await sandbox.process.create_session("s")
    request = daytona.SessionExecuteRequest(command="echo one; sleep 0.1; echo two", run_async=True)
    command = (await sandbox.process.execute_session_command("s", request)).cmd_id
    first: list[str] = []
    again: list[str] = []
    with pytest.raises(daytona.DaytonaError, match="1011"):
        await sandbox.process.get_session_command_logs_async("s", command, first.append, first.append)
    await sandbox.process.get_session_command_logs_async("s", command, again.append, again.append)

    assert ("".join(first), "".join(again)) == ("one\n", "one\ntwo\n")


async def test_unauthorized_and_unavailable_strike_as_often_as_they_should(
    client: AsyncDaytona, sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    double.faults.set("unauthorized", times=1)
    double.faults.set("unavailable", times=1, retry_after=2)

    with pytest.raises(daytona.DaytonaAuthenticationError):
        await client.get("one")
    with pytest.raises(daytona.DaytonaServiceUnavailableError):
        await client.get("one")
    assert (await client.get("one")).id == sandbox.id


async def test_dropped_answer_of_a_session_command_has_started_it(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    await sandbox.process.create_session("s")
    double.faults.set("drop", times=1, route="POST /process/session/*/exec")
    with pytest.raises(daytona.DaytonaConnectionError):
        await sandbox.process.execute_session_command(
            "s", daytona.SessionExecuteRequest(command="true", run_async=True)
        )

    assert len((await sandbox.process.get_session("s")).commands) == 1


async def test_same_seed_strikes_the_same_requests(start_double: StartDouble) -> None:
    outcomes: list[list[bool]] = []
    for _ in range(2):
        double: Any = start_double(seed=5)
        double.faults.set("unavailable", chance=0.5)
        async with connected(double) as client:
            outcomes.append([await answers(client) for _ in range(20)])
        double.stop()

    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {True, False}


async def answers(client: AsyncDaytona) -> bool:
    try:
        await client.get("nobody")
    except daytona.DaytonaServiceUnavailableError:
        return False
    except daytona.DaytonaNotFoundError:
        return True
    raise AssertionError("a sandbox that does not exist was found")
