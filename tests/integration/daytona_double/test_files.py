"""Files of a sandbox through the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import daytona
import pytest

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from muster.daytona_double import DaytonaDouble

pytestmark = pytest.mark.stress


async def test_folder_is_created_listed_moved_and_deleted(sandbox: AsyncSandbox) -> None:
    await sandbox.fs.create_folder("deep/folder", "700")
    await sandbox.fs.upload_file(b"content", "deep/folder/file.txt")
    shallow = [file.name for file in await sandbox.fs.list_files("deep")]
    deep = [file.name for file in await sandbox.fs.list_files(".", depth=3)]
    folder = await sandbox.fs.get_file_info("deep/folder")
    await sandbox.fs.move_files("deep/folder", "moved")
    moved = await sandbox.fs.get_file_info("moved/file.txt")
    with pytest.raises(daytona.DaytonaBadRequestError):
        await sandbox.fs.delete_file("moved")
    await sandbox.fs.delete_file("moved", recursive=True)

    assert (shallow, deep) == (["folder"], ["deep", "folder", "file.txt"])
    assert (folder.is_dir, folder.permissions) == (True, "0700")
    assert (moved.is_dir, moved.size) == (False, 7)
    with pytest.raises(daytona.DaytonaFileNotFoundError):
        await sandbox.fs.get_file_info("moved")


async def test_permissions_are_set(sandbox: AsyncSandbox) -> None:
    await sandbox.fs.upload_file(b"#!/bin/sh\necho ran", "script")
    before = (await sandbox.fs.get_file_info("script")).permissions
    await sandbox.fs.set_file_permissions("script", mode="755")

    assert before == "0644"
    assert (await sandbox.process.exec("./script", timeout=20)).result == "ran\n"


async def test_text_is_found_and_replaced(sandbox: AsyncSandbox) -> None:
    await sandbox.fs.upload_file(b"one\ntwo\n", "a.txt")
    await sandbox.fs.upload_file(b"two\n", "b.md")
    found = await sandbox.fs.find_files(".", "two")
    names = (await sandbox.fs.search_files(".", "*.md")).files
    await sandbox.fs.replace_in_files(["a.txt"], "two", "2")

    assert sorted((match.file.rpartition("/")[2], match.line) for match in found) == [("a.txt", 2), ("b.md", 1)]
    assert [name.rpartition("/")[2] for name in names] == ["b.md"]
    assert await sandbox.fs.download_file("a.txt") == b"one\n2\n"


async def test_path_outside_of_the_sandbox_is_refused(sandbox: AsyncSandbox, double: DaytonaDouble) -> None:
    with pytest.raises(daytona.DaytonaFileAccessDeniedError, match="ask for the working directory"):
        await sandbox.fs.get_file_info("/etc/hostname")
    with pytest.raises(daytona.DaytonaError, match="outside of the sandbox"):
        await sandbox.fs.upload_file(b"x", "../../../escaped")

    assert not (double.settings.root / "escaped").exists()


async def test_several_files_are_uploaded_and_downloaded_at_once(sandbox: AsyncSandbox) -> None:
    await sandbox.fs.upload_files(
        [daytona.FileUpload(source=str(n).encode(), destination=f"{n}.txt") for n in range(5)]
    )
    requests = [daytona.FileDownloadRequest(source=name) for name in ("3.txt", "missing.txt", "4.txt")]
    found = await sandbox.fs.download_files(requests)

    assert [(file.result, file.error is None) for file in found] == [(b"3", True), (None, False), (b"4", True)]


async def test_home_is_not_the_working_directory_and_both_are_inside(
    sandbox: AsyncSandbox, double: DaytonaDouble
) -> None:
    home, workdir = await sandbox.get_user_home_dir(), await sandbox.get_work_dir()
    ran = await sandbox.process.exec("echo $HOME; pwd", timeout=20)

    assert ran.result == f"{home}\n{workdir}\n"
    assert home != workdir
    assert home.startswith(str(double.settings.root))


async def test_changed_environment_is_that_of_later_processes(sandbox: AsyncSandbox) -> None:
    await sandbox.update_env({"WORD": "new"}, unset=["COLOUR"])

    assert (await sandbox.process.exec("echo $WORD-$COLOUR", timeout=20)).result == "new-\n"
