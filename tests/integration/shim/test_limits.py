"""A worker that uses more than its limits is contained, whether it was forked or spawned, and its record says why.

The limits are small, so that a failing test does not harm the machine.
"""

import os
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import pytest

from muster.shim.client import Limits, ShimClient
from muster.shim.limit_enforcer import RESERVED_PIDS
from tests.support.eventually import eventually
from tests.support.forked import FORK_BOMB, Forkling, Way
from tests.support.patience import PATIENCE_S
from tests.support.shim import ShimProcess, running_shim

pytestmark = pytest.mark.isolation

SMALL = Limits(memory_bytes=96 << 20, processes=20, file_bytes=1 << 20, cpus=1.0)
FEW = Limits(memory_bytes=1 << 30, processes=20)
GROW = """
import time
held = []
try:
    while sum(map(len, held)) < 1 << 30:
        held.append(bytearray(8 << 20))
except MemoryError:
    time.sleep(60)
"""
GROW_TOGETHER = """
import os, time
held = bytearray(b"x" * (80 << 20))
for _ in range(4):
    if not os.fork():
        own = bytearray(b"y" * (20 << 20))
        time.sleep(60)
time.sleep(60)
"""
GROW_HIDDEN = """
import os, time
for _ in range(160):
    os.write(os.memfd_create("hidden"), bytes(1 << 20))
time.sleep(60)
"""
ENDLESS_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
WRITE = """
import errno, os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    file = os.open("file", os.O_CREAT | os.O_WRONLY)
    for _ in range(64):
        os.write(file, bytes(1 << 16))
except OSError as error:
    print(errno.errorcode[error.errno], os.path.getsize("file"))
"""
BEAT = """
import time
last = time.monotonic()
longest = 0
while True:
    time.sleep(0.05)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    print(longest, flush=True)
"""


@pytest.fixture(scope="module")
def shim_process() -> Generator[ShimProcess]:
    with running_shim("bubblewrap") as process:
        yield process


@pytest.fixture
async def shim(shim_process: ShimProcess) -> AsyncGenerator[tuple[ShimProcess, ShimClient]]:
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=PATIENCE_S)
        yield shim_process, client
        for record in await client.list():
            await client.remove(record.key)


PID_MAX = Path("/proc/sys/kernel/pid_max")


def processes_like(pid: int) -> Callable[[], int]:
    """Return a function that counts the host's processes in the pid namespace of a process."""

    def namespace(process: Path) -> str:
        try:
            return str((process / "ns" / "pid").readlink())
        except OSError:
            return ""

    wanted = namespace(Path(f"/proc/{pid}"))
    return lambda: sum(namespace(process) == wanted for process in Path("/proc").glob("[0-9]*"))


async def beats(shim: ShimClient, key: str) -> list[float]:
    return [float(line) for line in (await shim.output(key))[0].decode().split()]


@pytest.mark.parametrize("way", ["forked", pytest.param("spawned", marks=pytest.mark.stress)])
async def test_worker_that_allocates_without_end_is_killed_with_a_named_reason(
    shim: tuple[ShimProcess, ShimClient], way: Way
) -> None:
    package = Forkling(shim[0])
    await package.launch(shim[1], "greedy", GROW, way, limits=SMALL)
    record = await shim[1].wait("greedy", deadline_s=PATIENCE_S)
    assert record.forked is (way == "forked")
    assert (record.stopped_by, record.exceeded) == ("limit", record.error)
    assert record.error == ("over its limit of memory: its processes used more than 96 MiB (resources.memory_bytes)")


@pytest.mark.parametrize("code", [GROW_TOGETHER, GROW_HIDDEN], ids=["many processes", "files in memory"])
async def test_memory_counts_wherever_a_worker_hides_it(shim: tuple[ShimProcess, ShimClient], code: str) -> None:
    await Forkling(shim[0]).launch(shim[1], "greedy", code, "spawned", limits=SMALL)
    record = await shim[1].wait("greedy", deadline_s=PATIENCE_S)
    assert record.exceeded is not None
    assert "memory" in record.exceeded


@pytest.mark.parametrize("way", ["forked", pytest.param("spawned", marks=pytest.mark.stress)])
async def test_fork_bomb_is_contained_and_cleaned_up(shim: tuple[ShimProcess, ShimClient], way: Way) -> None:
    process, client = shim
    package = Forkling(process)
    await package.launch(client, "other", BEAT, "spawned", limits=SMALL)
    bomb = await package.launch(client, "bomb", FORK_BOMB, way, limits=FEW)
    processes = processes_like(bomb.pid or 0)

    async def made() -> str:
        return (await client.output("bomb"))[0].decode().strip()

    assert int(await eventually(made)) <= (FEW.processes or 0) + RESERVED_PIDS
    assert 20 < processes() <= (FEW.processes or 0) + RESERVED_PIDS
    beats_before = len(await beats(client, "other"))
    assert (await client.stop("bomb", 0)).state == "exited"
    await eventually(processes, lambda left: left == 0)
    await eventually(lambda: beats(client, "other"), lambda found: len(found) > beats_before)


@pytest.mark.stress
@pytest.mark.parametrize("way", ["forked", "spawned"])
async def test_endless_fork_bomb_starves_no_other_worker(shim: tuple[ShimProcess, ShimClient], way: Way) -> None:
    process, client = shim
    package = Forkling(process)
    await package.launch(client, "other", BEAT, "spawned", limits=SMALL)
    await package.launch(client, "bomb", ENDLESS_BOMB, way, limits=FEW)

    async def many() -> bool:
        return len(await beats(client, "other")) > 100

    await eventually(many)
    assert (await client.stop("bomb", 0)).state == "exited"
    assert max(await beats(client, "other")) < PATIENCE_S / 4


async def test_file_cannot_grow_over_its_limit(shim: tuple[ShimProcess, ShimClient]) -> None:
    package = Forkling(shim[0])
    await package.launch(shim[1], "writer", WRITE, "spawned", limits=SMALL)
    await shim[1].wait("writer", deadline_s=PATIENCE_S)
    assert (await shim[1].output("writer"))[0].decode().split() == ["EFBIG", str(1 << 20)]


@pytest.mark.parametrize("way", ["forked", "spawned"])
async def test_worker_cannot_raise_its_limit_of_processes(shim: tuple[ShimProcess, ShimClient], way: Way) -> None:
    raises = (
        "try: open('/proc/sys/kernel/pid_max', 'w').write('99999'); print('raised')\n"
        "except OSError as error: print('refused')"
    )
    package = Forkling(shim[0])
    await package.launch(shim[1], "raises", raises, way, limits=SMALL)
    await shim[1].wait("raises", deadline_s=PATIENCE_S)
    assert (await shim[1].output("raises"))[0].decode().strip() == "refused"


async def test_limits_of_a_worker_do_not_change_the_hosts(shim: tuple[ShimProcess, ShimClient]) -> None:
    before = PID_MAX.read_text()
    await Forkling(shim[0]).launch(shim[1], "any", "pass", "spawned", limits=SMALL)
    await shim[1].wait("any", deadline_s=PATIENCE_S)
    assert PID_MAX.read_text() == before


async def test_workers_run_below_the_priority_of_services(shim: tuple[ShimProcess, ShimClient]) -> None:
    await Forkling(shim[0]).launch(shim[1], "nice", BEAT, "forked", limits=SMALL)
    record = await shim[1].get("nice")
    assert record is not None
    assert record.pid is not None
    if record.limits == "rlimits":
        assert os.getpriority(os.PRIO_PROCESS, record.pid) > os.getpriority(os.PRIO_PROCESS, 0)


async def test_shim_says_what_holds_the_limits(shim: tuple[ShimProcess, ShimClient]) -> None:
    probed = await shim[1].probe()
    await Forkling(shim[0]).launch(shim[1], "any", "pass", "spawned")
    record = await shim[1].get("any")
    assert record is not None
    assert (probed.limits, bool(probed.limits_why)) == (record.limits, True)
