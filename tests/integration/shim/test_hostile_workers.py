"""A hostile worker cannot prevent that the shim records its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.common.clock import utc_now
from muster.shim.client import ShimClient
from muster.shim.keeper_channel import KeeperChannel, spawning
from muster.shim.limit_enforcer import LimitEnforcer
from muster.shim.output import OutputFile
from muster.shim.protocol import LaunchRequest, ProcessRecord
from muster.shim.worker_process import ShimWorker
from tests.support.patience import PATIENCE_S
from tests.support.shim import running_shim

STEAL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
taken = libc.syscall(438, os.pidfd_open(1), 0, 0)  # pidfd_getfd: the keeper's socket to the shim
if taken < 0:
    print("refused:", os.strerror(ctypes.get_errno()))
else:
    os.write(taken, b"junk")
"""
WORDS = (b"pid", b"started 7", b"exited 1792")
KEEPER = f"""
import os
for word in {WORDS}:
    os.write(0, word)
"""
BABBLE = """
import os
for word in (b"pid", b"junk", b"\\xff\\xfe", b"started soon", b"exited", b"exited never", b"exited 99999999999999999999", b"exited 127", b"exited 65535", b"started " + b"9" * 5000,
             b"started 7", b"exited 1792"):
    os.write(0, word)
"""


@pytest.mark.isolation
async def test_a_sandboxed_worker_cannot_take_its_keepers_socket() -> None:
    with running_shim("bubblewrap") as process:
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=PATIENCE_S)
            argv = [sys.executable, "-c", STEAL]
            record = await shim.run("thief", argv, cwd=process.workspace, timeout_s=PATIENCE_S)
            output, _ = await shim.output("thief")
    assert output == b"refused: Operation not permitted\n"
    assert (record.state, record.exit_code) == ("exited", 0)


@pytest.fixture
def record() -> ProcessRecord:
    return ProcessRecord(key="k", state="running", isolation="plain", started_at=utc_now())


def kept(record: ProcessRecord, output: Path, says: str) -> tuple[ShimWorker, KeeperChannel]:
    """Return a worker whose keeper has sent the test's lines and crashed, before the shim has read them."""
    limits = LimitEnforcer(None, "not in this test", None)
    worker = ShimWorker(record, OutputFile(output), utc_now, limits)
    line = KeeperChannel(spawning([sys.executable, "-I", "-S", "-c", says]))
    worker.start(LaunchRequest(id=1, key="k", argv=["true"], cwd="/"), line, b"")
    os.waitpid(line.pid, 0)
    return worker, line


async def test_words_that_no_keeper_says_are_ignored(record: ProcessRecord, tmp_path: Path) -> None:
    worker, _ = kept(record, tmp_path / "k.out", BABBLE)
    worker.keeper_ended()
    assert (worker.record.state, worker.record.exit_code, worker.record.start_ticks) == ("exited", 7, 7)
    assert worker.record.pid


async def test_worker_whose_output_cannot_be_stored_ends_normally(record: ProcessRecord, tmp_path: Path) -> None:
    worker, _ = kept(record, tmp_path / "no such folder" / "k.out", f"print('said', flush=True){KEEPER}")
    worker.keeper_ended()
    assert (worker.record.state, worker.record.exit_code) == ("exited", 7)


async def test_process_that_prints_after_its_keeper_crashed_does_not_block_the_shim(
    record: ProcessRecord, tmp_path: Path
) -> None:
    worker, line = kept(record, tmp_path / "k.out", KEEPER)
    endless = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(endless, line._output)  # pyright: ignore[reportPrivateUsage]
    os.close(endless)
    worker.keeper_ended()
    assert worker.record.state == "exited"


ONE_FAILS = """
import asyncio, os, sys
from pathlib import Path
from muster.common.clock import utc_now
from muster.shim.fork_isolation import ForkCommands
from muster.shim.fork_parents import ForkParents
from muster.shim.isolation import IsolationSelector
from muster.shim.limit_enforcer import LimitEnforcer
from muster.shim.protocol import LaunchRequest
from muster.shim.worker_table import WorkerTable

def fails():
    raise RuntimeError("an error that nobody thought of")

async def main(place):
    isolation = IsolationSelector.probed("plain", place)
    parents = ForkParents(ForkCommands.of(isolation, place), place, "not in this test")
    async with asyncio.TaskGroup() as tasks:
        limits = LimitEnforcer(None, "not in this test", None)
        await one_fails(WorkerTable(isolation, limits, parents, place, utc_now, tasks), place)

async def one_fails(table, place):
    for key in ("one", "two"):
        await table.launch(LaunchRequest(id=1, key=key, argv=["true"], cwd=str(place)))
        table.worker(key).output.close = fails
    for key in ("one", "two"):
        os.waitid(os.P_PID, table.worker(key)._channel.pid, os.WEXITED | os.WNOWAIT)
    try:
        table.reap()
    except RuntimeError:
        print("raised")
    print(*(record.state for record in table.starting_with("")))
    print(*(table.worker(key).ended.is_set() for key in ("one", "two")))
    await table.close(0, "shim")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_an_error_while_one_worker_ends_leaves_no_worker_running(tmp_path: Path) -> None:
    """The test runs in another process, because the shim's table kills all child processes of its process."""
    ran = subprocess.run(
        [sys.executable, "-c", ONE_FAILS, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )

    assert ran.stdout.split() == ["raised", "exited", "exited", "True", "True"]
