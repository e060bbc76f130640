"""A child process ends with its parent, with its process group, and within its grace period."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muster.embedded.processes import ExitedError, ManagedProcess, ProcessCommand, wait_for_exit
from tests.support.patience import PATIENCE_S

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 100; done"
PARENT = """
import os, signal, sys
from pathlib import Path
from muster.embedded.postgres_user import PostgresUser
from muster.embedded.processes import ManagedProcess, ProcessCommand
become = PostgresUser.NAMESPACE.become if os.geteuid() == 0 else PostgresUser.SELF.become
kept = [
    ManagedProcess(ProcessCommand(name="child", argv=("sleep", "1000"), log=Path(sys.argv[1]), env=dict(os.environ), **more))
    for more in ({}, {"death_signal": signal.SIGQUIT}, {"become": become})
]
print(*(process.pid for process in kept), flush=True)
signal.pause()
"""


def shell(tmp_path: Path, script: str, *, grace_s: float = 10) -> ManagedProcess:
    command = ProcessCommand(
        name="child",
        argv=("bash", "-c", script),
        log=tmp_path / "log",
        env={"PATH": os.environ["PATH"]},
        grace_s=grace_s,
    )
    return ManagedProcess(command)


async def says(process: ManagedProcess, word: str) -> None:
    async def said() -> bool:
        return word in process.tail()

    await process.until(said, deadline_s=10)


async def test_child_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 3

        parent.kill()

        async with asyncio.timeout(PATIENCE_S):
            for pid in children:
                await wait_for_exit(pid)


async def test_process_that_ignores_sigterm_is_killed_after_its_grace_period(tmp_path: Path) -> None:
    process = shell(tmp_path, STUBBORN, grace_s=0.2)
    await says(process, "ready")

    await process.stop()

    assert process.code == -signal.SIGKILL


async def test_process_stopped_by_sigstop_still_ends_by_sigterm(tmp_path: Path) -> None:
    process = shell(tmp_path, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    await says(process, "ready")
    process.signal(signal.SIGSTOP)

    await process.stop()

    assert process.code == 7


async def test_process_group_ends_with_its_leader(tmp_path: Path) -> None:
    process = shell(tmp_path, "sleep 1000 & echo grandchild $!; wait")
    await says(process, "grandchild")
    grandchild = int(process.tail().split()[-1])

    process.signal(signal.SIGKILL)

    assert await process.exited() == -signal.SIGKILL
    async with asyncio.timeout(PATIENCE_S):
        await wait_for_exit(grandchild)


async def test_several_callers_can_wait_for_one_exit(tmp_path: Path) -> None:
    process = shell(tmp_path, "exit 3")
    assert await asyncio.gather(*(process.exited() for _ in range(5))) == [3] * 5


async def test_exit_is_detected_while_the_process_never_becomes_ready(tmp_path: Path) -> None:
    process = shell(tmp_path, "echo my last words; exit 4")

    async def never() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(ExitedError, match=r"exited with 4(.|\n)*my last words"):
        await process.until(never, deadline_s=10)
