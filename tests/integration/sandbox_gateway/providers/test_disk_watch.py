"""A sandbox whose files use too much space is stopped, and the host's disk keeps its floor."""

import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from msgspec.structs import replace

from muster.common.contracts.packages import Resources
from muster.common.faults import TimedOut, Unavailable
from muster.sandbox_gateway.providers.interface import WORKER, ProcessSpec, ProcessState, SandboxSpec
from muster.sandbox_gateway.providers.local.disk_watch import DiskWatch
from muster.sandbox_gateway.providers.local.sandboxes import LocalSandboxes
from muster.shim.client import ProcessRecord, ShimClient
from tests.support.eventually import eventually
from tests.support.local_sandboxes import local_sandboxes
from tests.support.patience import PATIENCE_S
from tests.support.shim import ShimProcess, running_shim

pytestmark = pytest.mark.isolation

SMALL = Resources(disk_bytes=1 << 20)
FILL = """
import os, pathlib, time
pathlib.Path(os.environ["AT"], "full").write_bytes(os.urandom(4 << 20))
print("written", flush=True)
time.sleep(60)
"""
GROW = """
import os, pathlib, time
file = pathlib.Path("full")
file.write_bytes(os.urandom(4 << 20))
print("written", flush=True)
while not pathlib.Path("../run/more").exists():
    time.sleep(0.02)
with file.open("ab") as more:
    more.write(os.urandom(1 << 20))
    print("more", flush=True)
    time.sleep(60)
"""
LINK = """
import os, time
os.symlink("/usr", "usr")
print("written", flush=True)
time.sleep(60)
"""
IN_TRANSIT = """
import os, socket, time
with open("hidden", "wb") as file:
    os.unlink("hidden")
    file.write(os.urandom(4 << 20))
    file.flush()
    ends = socket.socketpair()
    socket.send_fds(ends[0], [b"x"], [file.fileno()])
print("written", flush=True)
time.sleep(60)
"""
REMOVED = """
import os, time
with open("hidden", "wb") as file:
    os.unlink("hidden")
    file.write(os.urandom(4 << 20))
    file.flush()
    print("written", flush=True)
    time.sleep(60)
"""


class Watched:
    """Sandboxes of the provider `local`, and the watch over their disk."""

    def __init__(self, shim: ShimClient, root: Path, *, floor_bytes: int = 0, du_s: float = 20.0) -> None:
        self.root, self.free = root, 1 << 40
        self.watch = DiskWatch(shim, root, floor_bytes=floor_bytes, du_s=du_s, free=lambda _: self.free)
        self.provider: LocalSandboxes = local_sandboxes(
            shim, root, gateway_socket=root.parent / "gate" / "gateway.sock", problem=self.watch.problem
        )

    async def run(self, sandbox_id: str, code: str, *, at: str = "workspace", limits: Resources = SMALL) -> None:
        """Start a worker and wait until it has written its files."""
        layout = await self.provider.ensure(SandboxSpec(sandbox_id=sandbox_id))
        directory = str(Path(layout.workspace).with_name(at)) if not at.startswith("/") else at
        process = ProcessSpec(
            key=WORKER,
            argv=[sys.executable, "-c", code],
            cwd=layout.workspace,
            env={"AT": directory},
            limits=limits,
            timeout_s=PATIENCE_S,
        )
        await self.provider.launch(sandbox_id, process)

        async def printed() -> bytes:
            return (await self.provider.logs(sandbox_id, limit=1000)).body

        await eventually(printed)

    async def grow(self, sandbox_id: str) -> None:
        """Let a worker with the code `GROW` write one more MiB."""
        (self.root / sandbox_id / "run" / "more").touch()

        async def grown() -> bool:
            return b"more" in (await self.provider.logs(sandbox_id, limit=1000)).body

        await eventually(grown)

    async def state(self, sandbox_id: str) -> ProcessState:
        """Return the state of a worker."""
        state = await self.provider.poll(sandbox_id)
        assert state is not None
        return state


@pytest.fixture(scope="module")
def shim_process() -> Generator[ShimProcess]:
    with running_shim("bubblewrap") as process:
        yield process


@pytest.fixture
async def shim(shim_process: ShimProcess, tmp_path: Path) -> AsyncGenerator[ShimClient]:
    (tmp_path / "gate").mkdir()
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=PATIENCE_S)
        yield client
        for record in await client.list():
            await client.remove(record.key)


async def test_sandbox_over_its_limit_is_stopped_whichever_directory_it_fills(shim: ShimClient, tmp_path: Path) -> None:
    watched = Watched(shim, tmp_path / "sandboxes")
    for at in ("workspace", "state", "run", "home"):
        await watched.run(f"sbx_{at}", FILL, at=at)
    await watched.watch.look()
    for at in ("workspace", "state", "run", "home"):
        state = await watched.state(f"sbx_{at}")
        assert (state.running, state.exceeded) == (False, state.error)
        assert state.exceeded == (
            "over its limit of disk space: its files use 4 MiB, more than 1 MiB (resources.disk_bytes)"
        )


async def test_files_in_memory_and_files_behind_a_link_do_not_count(shim: ShimClient, tmp_path: Path) -> None:
    watched = Watched(shim, tmp_path / "sandboxes")
    await watched.run("sbx_tmp", FILL, at="/tmp")
    await watched.run("sbx_shm", FILL, at="/dev/shm")
    await watched.run("sbx_link", LINK)
    await watched.watch.look()
    assert [(await watched.state(sandbox)).running for sandbox in ("sbx_tmp", "sbx_shm", "sbx_link")] == [True] * 3


async def test_below_the_floor_no_sandbox_is_made_and_only_a_sandbox_that_grows_is_stopped(
    shim: ShimClient, tmp_path: Path
) -> None:
    large = replace(SMALL, disk_bytes=1 << 30)
    watched = Watched(shim, tmp_path / "sandboxes", floor_bytes=6 << 20)
    await watched.run("sbx_growing", GROW, limits=large)
    await watched.run("sbx_later", GROW, limits=large)
    await watched.run("sbx_largest", FILL.replace("4 <<", "9 <<"), limits=large)
    await watched.watch.look()
    watched.free = 5 << 20
    await watched.watch.look()
    with pytest.raises(Unavailable, match="MUSTER_DISK_FLOOR_BYTES"):
        await watched.provider.ensure(SandboxSpec(sandbox_id="sbx_new"))
    assert [(await watched.state(sandbox)).running for sandbox in ("sbx_growing", "sbx_largest")] == [True, True]
    await watched.grow("sbx_growing")
    await watched.watch.look()
    assert (await watched.state("sbx_largest")).running
    assert "by 1 MiB to 5 MiB" in ((await watched.state("sbx_growing")).exceeded or "")
    await watched.grow("sbx_later")
    await watched.watch.look()
    assert (await watched.state("sbx_later")).running, "the disk has not become fuller since the last stop"
    watched.free = 4 << 20
    await watched.watch.look()
    assert not (await watched.state("sbx_later")).running
    watched.free = 7 << 20
    await watched.watch.look()
    await watched.provider.ensure(SandboxSpec(sandbox_id="sbx_new"))


@pytest.mark.stress
async def test_below_the_floor_a_sandbox_that_hides_files_is_stopped_before_one_that_grows(
    shim: ShimClient, tmp_path: Path
) -> None:
    watched = Watched(shim, tmp_path / "sandboxes", floor_bytes=6 << 20)
    large = replace(SMALL, disk_bytes=1 << 30)
    await watched.watch.look()  # After this, all files of the sandboxes are growth.
    await watched.run("sbx_hides", IN_TRANSIT, limits=large)
    await watched.run("sbx_grows", FILL, limits=large)

    async def measured() -> bool:
        return bool((record := await shim.get("sbx:sbx_hides")) and record.hidden_files)

    await eventually(measured)
    watched.free = 5 << 20
    await watched.watch.look()
    assert (await watched.state("sbx_grows")).running
    assert "removed files of unknown size" in ((await watched.state("sbx_hides")).exceeded or "")


async def test_sandbox_whose_files_cannot_be_counted_in_time_is_stopped(shim: ShimClient, tmp_path: Path) -> None:
    watched = Watched(shim, tmp_path / "sandboxes", du_s=0.0, floor_bytes=1 << 20)
    await watched.run("sbx_many", LINK)
    watched.free = 0  # Then each look measures.
    for _ in range(3):
        assert (await watched.state("sbx_many")).running
        await watched.watch.look()
    assert "could not be counted" in ((await watched.state("sbx_many")).exceeded or "")


async def test_sandbox_that_does_not_end_keeps_no_other_sandbox_from_being_stopped(
    shim: ShimClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, stop = Watched(shim, tmp_path / "sandboxes"), shim.stop

    async def stuck(key: str, grace_s: float = 5.0, *, exceeded: str | None = None) -> ProcessRecord:
        if key == "sbx:sbx_a":
            raise TimedOut("a process in an uninterruptible sleep does not end")
        return await stop(key, grace_s, exceeded=exceeded)

    monkeypatch.setattr(shim, "stop", stuck)
    for name in ("sbx_a", "sbx_b"):
        await watched.run(name, FILL)
    await watched.watch.look()
    assert [(await watched.state(name)).running for name in ("sbx_a", "sbx_b")] == [True, False]


@pytest.mark.stress
async def test_removed_files_that_are_still_open_count(shim: ShimClient, tmp_path: Path) -> None:
    watched = Watched(shim, tmp_path / "sandboxes")
    await watched.run("sbx_hidden", REMOVED)

    async def measured() -> bool:
        return bool((record := await shim.get("sbx:sbx_hidden")) and record.deleted_bytes)

    await eventually(measured)
    await watched.watch.look()
    assert "disk space" in ((await watched.state("sbx_hidden")).exceeded or "")
