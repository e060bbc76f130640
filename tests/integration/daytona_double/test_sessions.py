"""Sessions and commands through the real SDK."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import daytona
import pytest

from tests.support.daytona import runs
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from daytona import AsyncSandbox
    from daytona_toolbox_api_client_async import Command

    from muster.daytona_double import DaytonaDouble

pytestmark = pytest.mark.stress


async def started(sandbox: AsyncSandbox, text: str, session: str = "s") -> str:
    """Start a command in a session, and return its id."""
    if session not in [one.session_id for one in await sandbox.process.list_sessions()]:
        await sandbox.process.create_session(session)
    request = daytona.SessionExecuteRequest(command=text, run_async=True)
    return (await sandbox.process.execute_session_command(session, request)).cmd_id


async def ended(sandbox: AsyncSandbox, command_id: str, session: str = "s") -> Command:
    return await eventually(
        lambda: sandbox.process.get_session_command(session, command_id), lambda command: command.exit_code is not None
    )


async def test_commands_of_a_session_run_one_after_the_other_in_one_shell(
    sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    gate = double.sandboxes[0].workdir / "gate"
    os.mkfifo(gate)
    first = await started(sandbox, "export WORD=kept; read -r _ < gate")
    second = await started(sandbox, "echo $WORD")
    waiting = (await sandbox.process.get_session_command("s", second)).exit_code
    gate.write_text("\n")
    await ended(sandbox, second)

    assert waiting is None
    assert (await sandbox.process.get_session_command("s", first)).exit_code == 0
    assert (await sandbox.process.get_session_command_logs("s", second)).stdout == "kept\n"


async def test_exit_ends_the_shell_and_its_exit_code_is_never_reported(sandbox: AsyncSandbox) -> None:
    command = await started(sandbox, "echo last words; exit 3")
    await eventually(
        lambda: sandbox.process.get_session_command_logs("s", command), lambda logs: logs.output == "last words\n"
    )

    async def refused() -> bool:
        try:
            await started(sandbox, "echo more")
        except daytona.DaytonaSessionEndedError:
            return True
        return False

    await eventually(refused)
    assert (await sandbox.process.get_session_command("s", command)).exit_code is None


async def test_exit_inside_bash_c_is_reported(sandbox: AsyncSandbox) -> None:
    command = await started(sandbox, "bash -c 'exit 3'")

    assert (await ended(sandbox, command)).exit_code == 3


async def test_deleted_session_ends_its_commands_with_sigterm_first(
    sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    told = double.sandboxes[0].workdir / "told"
    await started(
        sandbox, "bash -c 'trap \"echo term > told; exit 0\" TERM; echo > ready; while true; do sleep 0.01; done'"
    )
    await eventually((told.parent / "ready").exists)
    await sandbox.process.delete_session("s")

    assert told.read_text() == "term\n"
    with pytest.raises(daytona.DaytonaNotFoundError):
        await sandbox.process.get_session("s")


async def test_heredoc_runs(sandbox: AsyncSandbox) -> None:
    command = await started(sandbox, "cat <<END\nhello\nEND")
    await ended(sandbox, command)

    assert (await sandbox.process.get_session_command_logs("s", command)).stdout == "hello\n"


async def test_input_reaches_a_running_command(sandbox: AsyncSandbox) -> None:
    command = await started(sandbox, "read -r line; echo got $line")
    await sandbox.process.send_session_command_input("s", command, "this\n")
    await ended(sandbox, command)

    assert (await sandbox.process.get_session_command_logs("s", command)).stdout == "got this\n"
    with pytest.raises(daytona.DaytonaCommandAlreadyCompletedError):
        await sandbox.process.send_session_command_input("s", command, "more\n")


async def test_followed_log_has_both_streams_and_ends_with_the_command(sandbox: AsyncSandbox) -> None:
    command = await started(sandbox, "echo out; echo bad >&2; sleep 0.1; echo later")
    out: list[str] = []
    bad: list[str] = []
    await sandbox.process.get_session_command_logs_async("s", command, out.append, bad.append)

    assert ("".join(out), "".join(bad)) == ("out\nlater\n", "bad\n")
    assert (await sandbox.process.get_session_command("s", command)).exit_code == 0


async def test_output_in_the_background_delays_the_exit_code(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    gate = double.sandboxes[0].workdir / "gate"
    os.mkfifo(gate)
    command = await started(sandbox, "(read -r _ < gate) & true")
    early = (await sandbox.process.get_session_command("s", command)).exit_code
    gate.write_text("\n")

    assert early is None
    assert (await ended(sandbox, command)).exit_code == 0


async def test_sessions_are_listed_with_their_commands(sandbox: AsyncSandbox) -> None:
    first = await started(sandbox, "true", "a")
    await started(sandbox, "true", "b")

    assert [one.session_id for one in await sandbox.process.list_sessions()] == ["a", "b"]
    assert [one.id for one in (await sandbox.process.get_session("a")).commands] == [first]
    with pytest.raises(daytona.DaytonaConflictError):
        await sandbox.process.create_session("a")


async def test_command_without_a_session_returns_output_and_exit_code(sandbox: AsyncSandbox) -> None:
    ran = await sandbox.process.exec("echo $WORD; echo bad >&2; exit 4", env={"WORD": "given"}, timeout=20)

    assert (ran.exit_code, ran.result) == (4, "given\nbad\n")


async def test_command_over_its_timeout_is_killed_with_408(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    with pytest.raises(daytona.DaytonaProcessExecutionTimeoutError) as late:
        await sandbox.process.exec("sleep 60; echo > survived", timeout=1)

    assert late.value.status_code == 408
    assert not (double.sandboxes[0].workdir / "survived").exists()


async def test_python_in_a_sandbox_has_the_packages_of_this_environment(sandbox: AsyncSandbox) -> None:
    ran = await sandbox.process.exec("python3 -c 'import msgspec; print(msgspec.__name__)'", timeout=30)

    assert ran.result == "msgspec\n"


async def test_every_process_ends_when_its_sandbox_stops(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    pid_file = double.sandboxes[0].workdir / "pid"
    await started(sandbox, "setsid bash -c 'echo $$ > pid.new; mv pid.new pid; sleep 1000' & wait")
    await eventually(pid_file.exists)
    pid = int(pid_file.read_text())
    await sandbox.stop()

    await eventually(lambda: runs(pid), lambda still: not still)
