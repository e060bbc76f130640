"""Each worker has a cgroup of its own where the machine delegates controllers of cgroup v2; elsewhere they are skipped."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from muster.shim.cgroups import WorkerCgroups
from muster.shim.client import Limits, ShimClient
from tests.support.eventually import eventually
from tests.support.forked import FORK_BOMB, Forkling, Way
from tests.support.patience import PATIENCE_S
from tests.support.shim import ShimProcess, running_shim

pytestmark = pytest.mark.isolation

LIMITS = Limits(processes=20, cpus=0.5, memory_bytes=256 << 20)
SLEEP = "import time; print('ready', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def controllers(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    cgroups, why = WorkerCgroups.opened(tmp_path_factory.mktemp("state"))
    if cgroups is None:
        pytest.skip(f"no controller of cgroup v2 is delegated to this process: {why}")
    cgroups.close()
    return cgroups.controllers


@pytest.fixture
def process(controllers: frozenset[str]) -> Generator[ShimProcess]:
    assert controllers
    with running_shim("bubblewrap") as running:
        yield running


@pytest.fixture
async def shim(process: ShimProcess) -> AsyncGenerator[ShimClient]:
    async with ShimClient(process.socket) as client:
        await client.probe(deadline_s=PATIENCE_S)
        yield client


def group_of(pid: int) -> Path:
    """Return the directory of a process's cgroup v2."""
    own = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    mount = next(
        before.split()[4]
        for before, _, after in (
            line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()
        )
        if after.startswith("cgroup2")
    )
    return Path(mount + own.removeprefix("0::"))


@pytest.mark.parametrize("way", ["forked", "spawned"])
async def test_all_processes_of_a_worker_are_in_its_cgroup_which_is_removed_after_its_end(
    controllers: frozenset[str], process: ShimProcess, shim: ShimClient, way: Way
) -> None:
    await Forkling(process).launch(shim, "one", FORK_BOMB, way, limits=LIMITS)

    async def printed() -> str:
        return (await shim.output("one"))[0].decode().strip()

    made = int(await eventually(printed))
    record = await shim.get("one")
    assert record is not None
    assert record.pid is not None
    group = group_of(record.pid)
    assert group.name == "worker-one"
    if "pids" in controllers:
        assert made <= (LIMITS.processes or 0)
        assert int((group / "pids.current").read_text()) <= (LIMITS.processes or 0) + 1
    if "cpu" in controllers:
        assert (group / "cpu.max").read_text().split() == ["50000", "100000"]
    if "memory" in controllers:
        assert (group / "memory.max").read_text().strip() == str(LIMITS.memory_bytes)
    await shim.stop("one", 0)
    await eventually(lambda: not group.exists())


async def test_cgroups_of_a_killed_shim_are_removed_by_the_next_one(process: ShimProcess, shim: ShimClient) -> None:
    await Forkling(process).launch(shim, "one", SLEEP, "spawned", limits=LIMITS)
    record = await shim.get("one")
    assert record is not None
    assert record.pid is not None
    group = group_of(record.pid)
    process.kill()
    process.again()
    async with ShimClient(process.socket) as client:
        await client.probe(deadline_s=PATIENCE_S)
    assert not group.exists()
    assert group.parent.exists()


async def test_memory_over_the_limit_ends_all_processes_with_a_named_reason(
    controllers: frozenset[str], process: ShimProcess, shim: ShimClient
) -> None:
    if "memory" not in controllers:
        pytest.skip("the memory controller is not delegated to this process")
    grow = "held = []\nwhile True: held.append(bytearray(8 << 20))"
    await Forkling(process).launch(shim, "greedy", grow, "spawned", limits=LIMITS)
    record = await shim.wait("greedy", deadline_s=PATIENCE_S)
    assert record.stopped_by == "limit"
    assert "memory" in (record.exceeded or "")
