"""A test run that is interrupted or killed leaves none of the processes that it started."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S
from tests.support.shim import Marked

ROOT = Path(__file__).parents[3]
CONFTEST = """
from tests.support.reaping import leave_nothing_running

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        leave_nothing_running()
"""
TEST = """
import os, subprocess, sys, time
from tests.support.shim import running_shim

def test_that_is_interrupted():
    with running_shim("plain") as shim:
        subprocess.Popen(["sleep", "{seconds}"])
        subprocess.run(["sh", "-c", "setsid sleep {seconds} & exit 0"])
        print(os.getpid(), shim.process.pid, file=open("there", "w"), flush=True)
        time.sleep(1000)
"""


def begin(place: Path, marked: Marked, *options: str) -> subprocess.Popen[bytes]:
    (place / "pytest.ini").write_text("[pytest]\n")
    (place / "conftest.py").write_text(CONFTEST)
    (place / "test_it.py").write_text(TEST.format(seconds=marked.seconds))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *options],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )


async def pids(place: Path) -> list[int]:
    """Return the pids of the test's process and of its shim, when both have started their sleeps."""
    there = place / "there"
    said = await eventually(lambda: there.read_text().split() if there.exists() else [])
    return [int(pid) for pid in said]


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("how", ["interrupted", "killed"])
async def test_a_run_that_ends_early_leaves_no_process(tmp_path: Path, how: str) -> None:
    marked = Marked()
    run = begin(tmp_path, marked)
    await _end_early(run, tmp_path, how)
    await eventually(lambda: not marked.living())


@pytest.mark.stress
@pytest.mark.parametrize("how", ["interrupted", "killed", "its process killed"])
async def test_a_run_with_workers_that_ends_early_leaves_no_process(tmp_path: Path, how: str) -> None:
    marked = Marked()
    run = begin(tmp_path, marked, "-n", "1", "--max-worker-restart", "0")
    await _end_early(run, tmp_path, how)
    await eventually(lambda: not marked.living())


async def _end_early(run: subprocess.Popen[bytes], place: Path, how: str) -> None:
    running_the_test, shim = await pids(place)
    if how == "its process killed":
        os.kill(running_the_test, signal.SIGKILL)
    else:
        run.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
    assert await asyncio.to_thread(run.wait, PATIENCE_S) != 0
    await eventually(lambda: not runs(shim))
