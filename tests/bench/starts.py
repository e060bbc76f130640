"""Measures start times and memory of processes. `agents.py` measures coding agents."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.bench.ratios import row, say
from tests.support.fleet import Fleet
from tests.support.stack import RunningStack


def report() -> None:
    """Measure the start of the command line, and print the times."""
    shown = min(timed(str(Path(sys.executable).with_name("muster")), "--help") for _ in range(5))
    bare = bare_start()
    row("muster --help (aim < 0.2 s)", f"{shown:.2f} s", f"python -c pass {bare:.2f} s", f"{shown / bare:.1f}")


async def worker(stack: RunningStack) -> None:
    """Measure the time from a task's submission to the worker's first event, compared with the start of an interpreter."""
    fleet = Fleet(stack)
    began = time.perf_counter()
    task = await fleet.submit(metadata={"steps": [{"act": "x"}, {"sleep_ms": 20_000}, {"finish": "success"}]})
    sandbox = await fleet.until_logged(task.task_id, 1)
    took = time.perf_counter() - began
    resident = psutil.Process(await fleet.worker_pid(sandbox)).memory_info().rss
    say()
    row("worker (echo): submitted → first event", f"{took:.2f} s", f"python -c pass {bare_start():.2f} s", "")
    say()
    say("memory, resident (MiB)")
    for name, pid in sorted(stack.pids.items()):
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=name == "postgres")]
        total = sum(one.memory_info().rss for one in family if one.pid == pid or name == "postgres")
        say(f"  {name:<38} {total / 2**20:>18.0f}")
    say(f"  {'each echo worker':<38} {resident / 2**20:>18.0f}")
    await fleet.call("POST", f"/api/v1/tasks/{task.task_id}/cancel", {})


def bare_start() -> float:
    """Return the seconds to start an interpreter that does nothing: the shortest of five starts."""
    return min(timed(sys.executable, "-c", "pass") for _ in range(5))


def timed(*command: str) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
