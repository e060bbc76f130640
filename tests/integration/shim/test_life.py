"""Guarantees of the shim about start and end of workers, at each isolation level, with real processes."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from muster.shim.client import ProcessRecord, ShimClient
from muster.shim.keeper import start_ticks
from tests.support.eventually import eventually
from tests.support.patience import GONE_S, PATIENCE_S, PROMPT_S
from tests.support.shim import Marked, ShimProcess, ended_within, running_shim

STUBBORN = "trap '' TERM; while :; do sleep {seconds}; done"


@pytest.fixture(params=[pytest.param("bubblewrap", marks=pytest.mark.isolation), "plain"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def shim_process(level: str) -> Iterator[ShimProcess]:
    with running_shim(level) as process:
        yield process


@pytest.fixture
async def shim(shim_process: ShimProcess) -> AsyncIterator[ShimClient]:
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=20)
        yield client


@pytest.fixture
def key() -> str:
    return f"k-{secrets.token_hex(4)}"


async def launch(shim: ShimClient, at: ShimProcess, key: str, script: str, lease_s: float | None = 60) -> ProcessRecord:
    return await shim.launch(key, ["sh", "-c", script], cwd=at.workspace, writable=[at.workspace], lease_s=lease_s)


async def run(shim: ShimClient, at: ShimProcess, key: str, script: str, timeout_s: float = 30) -> ProcessRecord:
    return await shim.run(key, ["sh", "-c", script], cwd=at.workspace, writable=[at.workspace], timeout_s=timeout_s)


async def test_the_same_key_is_the_same_process(shim: ShimClient, shim_process: ShimProcess, key: str) -> None:
    script = "echo once >> count; sleep 1000"
    records = await asyncio.gather(*(launch(shim, shim_process, key, script) for _ in range(5)))
    async with ShimClient(shim_process.socket) as other:
        records.append(await launch(other, shim_process, key, "echo other"))

    assert len({(record.pid, record.start_ticks) for record in records}) == 1
    assert records[0].isolation == shim_process.level
    assert records[0].pid
    assert records[0].start_ticks == start_ticks(records[0].pid)
    await eventually((shim_process.workspace / "count").exists)
    stopped = await shim.stop(key, 1)
    assert await launch(shim, shim_process, key, script) == stopped == await shim.get(key)
    assert (stopped.state, stopped.signal, stopped.exit_code, stopped.stopped_by) == ("exited", 15, None, "request")
    assert (shim_process.workspace / "count").read_text() == "once\n"


async def test_reported_pid_is_that_of_the_worker(shim: ShimClient, shim_process: ShimProcess, key: str) -> None:
    marked = Marked()
    record = await launch(shim, shim_process, key, f"exec sleep {marked.seconds}")
    assert await marked.grown(1) == [record.pid]


async def test_exit_codes_signals_and_missing_programs_are_recorded(
    shim: ShimClient, shim_process: ShimProcess
) -> None:
    failed = await run(shim, shim_process, "failed", "echo out; echo err >&2; exit 7")
    killed = await run(shim, shim_process, "killed", "kill -9 $$")
    missing = await shim.run("missing", ["no-such-program"], cwd=shim_process.workspace, timeout_s=PATIENCE_S)

    assert (failed.exit_code, failed.signal, failed.error) == (7, None, None)
    assert (await shim.output("failed"))[0] == b"out\nerr\n"
    assert (killed.exit_code, killed.signal) == (None, 9)
    assert missing.exit_code == 127
    assert missing.error == "No such file or directory: no-such-program"
    assert [record.exit_no for record in (failed, killed, missing)] == [1, 2, 3]


async def test_worker_that_ignores_term_is_killed_with_its_children_after_the_grace_period(
    shim: ShimClient, shim_process: ShimProcess, key: str
) -> None:
    marked = Marked()
    await launch(shim, shim_process, key, marked.daemon + STUBBORN.format(seconds=marked.seconds))
    pids = await marked.grown(2)
    began = time.monotonic()
    record, again = await asyncio.gather(shim.stop(key, 0.5), shim.stop(key, 30))

    assert 0.5 <= time.monotonic() - began < PROMPT_S
    assert record == again
    assert record.signal == signal.SIGKILL
    assert marked.gone_within(pids, 0)


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 0"])
async def test_worker_that_ends_leaves_no_daemon(
    shim: ShimClient, shim_process: ShimProcess, key: str, end: str
) -> None:
    marked = Marked()
    os.mkfifo(shim_process.workspace / "go")
    await launch(shim, shim_process, key, f"{marked.daemon * 3} read line < go; {end}")
    pids = await marked.grown(3)
    (shim_process.workspace / "go").write_text("now\n")
    record = await shim.wait(key, deadline_s=PATIENCE_S)

    assert record.state == "exited"
    assert marked.gone_within(pids, 0)


async def test_kill_9_of_the_shim_leaves_no_process(shim: ShimClient, shim_process: ShimProcess) -> None:
    marked = Marked()
    script = marked.daemon + STUBBORN.format(seconds=marked.seconds)
    records = [await launch(shim, shim_process, f"k{n}", script) for n in range(3)]
    pids = await marked.grown(6)
    shim_process.kill()

    assert marked.gone_within(pids, GONE_S)
    assert ended_within([record.pid or 0 for record in records], GONE_S)


async def test_kill_9_of_a_keeper_leaves_no_process(shim: ShimClient, shim_process: ShimProcess, key: str) -> None:
    marked = Marked()
    record = await launch(shim, shim_process, key, marked.daemon + STUBBORN.format(seconds=marked.seconds))
    pids = await marked.grown(2)
    psutil.Process(record.pid).parent().kill()  # pyright: ignore[reportOptionalMemberAccess] - it has one
    record = await shim.wait(key, deadline_s=PATIENCE_S)

    assert record.error == "the worker's keeper was killed"
    assert marked.gone_within(pids, GONE_S)


async def test_stopped_shim_ends_its_workers_with_sigterm_first(shim: ShimClient, shim_process: ShimProcess) -> None:
    marked = Marked()
    polite = "trap 'echo bye > bye; exit 0' TERM; echo up > up; while :; do sleep 0.05; done"
    await launch(shim, shim_process, "polite", polite)
    await launch(shim, shim_process, "daemon", f"{marked.daemon} exec sleep {marked.seconds}")
    pids = await marked.grown(2)
    await eventually((shim_process.workspace / "up").exists)
    shim_process.process.terminate()

    assert await asyncio.to_thread(shim_process.process.wait, 10) == 0
    assert (shim_process.workspace / "bye").read_text() == "bye\n"
    assert marked.gone_within(pids, 0)
    assert not shim_process.socket.exists()


async def test_end_of_the_watched_parent_ends_the_shim_and_its_workers(shim_process: ShimProcess) -> None:
    shim_process.process.terminate()
    shim_process.process.wait(10)
    starts = "import os, subprocess, sys; subprocess.run([*sys.argv[1:], '--parent-watch', str(os.getpid())])"
    parent = subprocess.Popen([sys.executable, "-c", starts, *shim_process.argv()])
    marked = Marked()
    async with ShimClient(shim_process.socket) as shim:
        await shim.probe(deadline_s=20)
        await launch(shim, shim_process, "k", marked.daemon + STUBBORN.format(seconds=marked.seconds))
        pids = await marked.grown(2)
        pids += [child.pid for child in psutil.Process(parent.pid).children()]
        parent.kill()
        parent.wait()
        assert marked.gone_within(pids, GONE_S)


async def test_new_shim_on_the_same_state_reports_workers_that_ended_with_the_old_one(
    shim: ShimClient, shim_process: ShimProcess
) -> None:
    done = await run(shim, shim_process, "done", "echo done")
    running = await launch(shim, shim_process, "running", "sleep 1000")
    shim_process.kill()
    shim_process.again()
    await shim.probe(deadline_s=20)

    assert await launch(shim, shim_process, "done", "echo again") == done
    assert (await shim.output("done"))[0] == b"done\n"
    lost = await launch(shim, shim_process, "running", "sleep 1000")
    assert (lost.state, lost.pid, lost.exit_code, lost.exit_no) == ("exited", None, None, 2)
    assert lost.error
    assert "shim" in lost.error
    assert running.pid
    assert ended_within([running.pid], GONE_S)
    assert [record.exit_no async for record in _first(shim.exits(), 2)] == [1, 2]


async def test_a_lease_that_is_not_renewed_ends_the_worker(shim: ShimClient, shim_process: ShimProcess) -> None:
    await launch(shim, shim_process, "a.kept", "sleep 1000", lease_s=0.6)
    await launch(shim, shim_process, "b.dropped", "sleep 1000", lease_s=0.6)
    for _ in range(6):
        await asyncio.sleep(0.2)
        assert await shim.renew(prefix="a.") == ["a.kept"]
    dropped, kept = await shim.get("b.dropped"), await shim.get("a.kept")

    assert dropped
    assert (dropped.state, dropped.stopped_by) == ("exited", "lease")
    assert kept
    assert kept.state == "running"


async def test_worker_that_exceeds_its_time_limit_is_stopped(
    shim: ShimClient, shim_process: ShimProcess, key: str
) -> None:
    record = await run(shim, shim_process, key, "echo begun; exec sleep 1000", timeout_s=0.3)
    assert (record.stopped_by, record.signal) == ("timeout", 15)
    assert (await shim.output(key))[0] == b"begun\n"


async def test_a_flood_of_output_neither_blocks_nor_fills(
    shim: ShimClient, shim_process: ShimProcess, key: str
) -> None:
    record = await run(shim, shim_process, key, "head -c 100000000 /dev/zero; printf '\\377end'")
    tail, end = await shim.output(key, -8)
    kept, offset = 0, 0
    while True:
        piece, offset = await shim.output(key, offset)
        if not piece:
            break
        kept += len(piece)

    assert record.exit_code == 0
    assert (tail, end) == (b"\0\0\0\0\xffend", 100_000_004)
    assert 4 << 20 <= kept <= 9 << 20
    assert sum(path.stat().st_size for path in shim_process.state.glob(f"{key}.out*")) == kept


async def test_output_can_be_followed_while_it_grows_and_is_deleted_with_the_process(
    shim: ShimClient, shim_process: ShimProcess, key: str
) -> None:
    os.mkfifo(shim_process.workspace / "go")
    await launch(shim, shim_process, key, "echo one; read line < go; echo two; sleep 1000")

    async def printed(count: int) -> bool:
        return len((await shim.output(key))[0]) == count

    await eventually(lambda: printed(4))
    first, offset = await shim.output(key)
    (shim_process.workspace / "go").write_text("now\n")
    await eventually(lambda: printed(8))

    assert first == b"one\n"
    assert (await shim.output(key, offset, 2))[0] == b"tw"
    await shim.remove(key)
    assert await shim.get(key) is None
    assert await shim.list() == []
    assert not list(shim_process.state.glob(f"{key}*"))
    await shim.remove(key)


async def test_worker_has_only_the_passed_environment_variables(
    shim: ShimClient, shim_process: ShimProcess, key: str
) -> None:
    await shim.run(
        key,
        [sys.executable, "-I", "-c", "import os; print(sorted(os.environ.items()))"],
        cwd=shim_process.workspace,
        env={"COLOUR": "grün = green", "LC_ALL": "C.UTF-8"},
        timeout_s=10,
    )
    expected = {
        "COLOUR": "grün = green",
        "HOME": str(shim_process.workspace),
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    assert (await shim.output(key))[0].decode() == f"{sorted(expected.items())}\n"


async def _first(exits: AsyncIterator[ProcessRecord], count: int) -> AsyncIterator[ProcessRecord]:
    async with asyncio.timeout(PATIENCE_S):
        async for record in exits:
            yield record
            count -= 1
            if not count:
                return
