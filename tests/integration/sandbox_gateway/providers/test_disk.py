"""Files of a hostile sandbox are counted with a limit and can always be deleted."""

import os
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from muster.common.faults import Fault
from muster.sandbox_gateway.providers.local.sandboxes import LocalSandboxes
from muster.shim.client import ShimClient
from tests.support.gateway import process
from tests.support.local_sandboxes import local_sandboxes

SANDBOX = "sbx_hostile"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "sandboxes" / SANDBOX
    (made / "workspace").mkdir(parents=True)
    (made / "state").mkdir()
    yield made
    subprocess.run(["/bin/rm", "-rf", "--", made], check=False)  # pytest cannot delete such deep directories.


@pytest.fixture
async def local(tmp_path: Path, home: Path) -> AsyncGenerator[LocalSandboxes]:
    """The provider `local` with a real shim that has never started a process."""
    socket = tmp_path / "shim.sock"
    async with AsyncExitStack() as opened:
        shim = ("muster.shim", "--socket", str(socket), "--state", str(tmp_path / "shim"))
        await opened.enter_async_context(process(*shim, env={}))
        client = await opened.enter_async_context(ShimClient(socket))
        yield local_sandboxes(client, home.parent, gateway_socket=tmp_path / "gate" / "gateway.sock")


def dig(folder: Path, levels: int) -> None:
    """Create directories so deep that the path of the last exceeds the limit of system calls."""
    there = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("deeper", dir_fd=there)
        below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=there)
        os.close(there)
        there = below
    os.close(there)


async def test_a_sandbox_cannot_make_itself_undeletable(local: LocalSandboxes, home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("of somebody else")
    (home / "workspace" / "way out").symlink_to(outside)
    dig(home / "workspace", 1500)
    locked = home / "workspace" / "-locked" / "inner"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    locked.chmod(0o500)
    locked.parent.chmod(0)
    await local.delete(SANDBOX)
    assert not home.exists()
    assert (outside / "kept").read_text() == "of somebody else"
    await local.delete(SANDBOX)  # A deleted directory is fine too.


async def test_events_are_counted_in_the_folders_of_the_agents(local: LocalSandboxes, home: Path) -> None:
    assert await local.recorded_events(SANDBOX) is None
    (home / "state" / "events.jsonl").write_bytes(b"{}\n" * 3 + b'{"half')
    assert await local.recorded_events(SANDBOX) == 3
    events = home / "state" / "conversations" / "c1" / "events"
    events.mkdir(parents=True)
    for number in range(5):
        (events / f"event-{number:05d}-x.json").write_text("{}")
    (events / "lock").touch()
    assert await local.recorded_events(SANDBOX) == 5
    assert await local.recorded_events("sbx_unknown") is None


async def test_count_of_events_follows_no_link_and_waits_for_no_pipe(
    local: LocalSandboxes, home: Path, tmp_path: Path
) -> None:
    outside, state = tmp_path / "outside", home / "state"
    (outside / "events").mkdir(parents=True)
    (outside / "events" / "event-1.json").write_text("{}")
    (outside / "lines").write_bytes(b"\n" * 7)
    (state / "events").symlink_to(outside / "events")
    (state / "all").symlink_to(outside)
    assert await local.recorded_events(SANDBOX) is None
    journal = state / "events.jsonl"
    journal.symlink_to(outside / "lines")
    with pytest.raises(OSError, match="symbolic link"):
        await local.recorded_events(SANDBOX)
    journal.unlink()
    os.mkfifo(journal)
    with pytest.raises(Fault, match="not a regular file"):
        await local.recorded_events(SANDBOX)


async def test_count_of_events_ends_for_any_number_of_files(local: LocalSandboxes, home: Path) -> None:
    dig(home / "state", 1500)
    with (home / "state" / "events.jsonl").open("wb") as journal:
        journal.truncate(65 << 20)
    with pytest.raises(Fault, match=r"events\.jsonl in the sandbox's state directory has over"):
        await local.recorded_events(SANDBOX)
