"""The double through the real SDK: the life of a sandbox, its commands and its files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import daytona
import pytest

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from muster.daytona_double import DaytonaDouble


async def test_a_created_sandbox_is_started_and_found_by_name_and_by_id(
    client: AsyncDaytona, sandbox: AsyncSandbox
) -> None:
    by_name, by_id = await client.get("one"), await client.get(sandbox.id)

    assert sandbox.state == daytona.SandboxState.STARTED
    assert by_name.id == by_id.id == sandbox.id
    assert by_name.env == {"COLOUR": "blue"}
    assert by_name.labels["team"] == "a"


async def test_deleting_answers_at_destroying_and_then_the_sandbox_is_gone(
    client: AsyncDaytona, sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    directory = double.sandboxes[0].workdir

    await sandbox.delete()
    at_once = sandbox.state
    await _gone(client)

    assert at_once == daytona.SandboxState.DESTROYING
    assert not directory.exists()


async def _gone(client: AsyncDaytona) -> None:
    from tests.support.eventually import eventually

    async def gone() -> bool:
        try:
            await client.get("one")
        except daytona.DaytonaNotFoundError:
            return True
        return False

    await eventually(gone)


async def test_a_session_runs_commands_with_the_sandboxs_environment(sandbox: AsyncSandbox) -> None:
    await sandbox.process.create_session("s")
    ran = await sandbox.process.execute_session_command(
        "s",
        daytona.SessionExecuteRequest(command="echo $COLOUR; pwd; echo bad >&2; exec_code() { return 3; }; exec_code"),
    )

    assert ran.exit_code == 3
    assert ran.stdout == f"blue\n{await sandbox.get_work_dir()}\n"
    assert ran.stderr == "bad\n"


async def test_uploaded_files_are_downloaded_unchanged(sandbox: AsyncSandbox) -> None:
    content = bytes(range(256)) * 4096
    path = f'{await sandbox.get_work_dir()}/deep/a "quoted" ü.bin'

    await sandbox.fs.upload_file(content, path)
    await sandbox.fs.upload_file_stream(content[:1000], "relative.bin")
    whole = await sandbox.fs.download_file(path)
    streamed = b"".join([piece async for piece in await sandbox.fs.download_file_stream("relative.bin")])

    assert hashlib.sha256(whole).digest() == hashlib.sha256(content).digest()
    assert streamed == content[:1000]


async def test_a_missing_file_is_a_typed_error(sandbox: AsyncSandbox) -> None:
    with pytest.raises(daytona.DaytonaFileNotFoundError):
        await sandbox.fs.download_file("nowhere.txt")
