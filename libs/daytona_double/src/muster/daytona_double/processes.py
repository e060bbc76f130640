"""Ends the processes of a sandbox: all of them, also those that left their process group or lost their parent.

Every process of a sandbox has the environment variable `MARK` with a value that only this sandbox has, and so have its
descendants. The variable's value begins with the root directory of the double, so that a double that starts on the same
directory also finds the processes of a double that was killed.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "DAYTONA_DOUBLE_SANDBOX"


def mark_of(root: Path, sandbox_id: str = "") -> str:
    """Return the value of `MARK` for a sandbox, or the beginning that all sandboxes below `root` share."""
    return f"{root}:{sandbox_id}"


def kill_marked(mark: str) -> int:
    """Kill every process whose mark begins with `mark`, also those started meanwhile; return how many were killed."""
    killed: set[int] = set()
    while found := set(_marked(mark)):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if found <= killed:
            break  # They are dying. The kernel runs no more of their code.
        killed |= found
    return len(killed)


def signal_marked(mark: str, number: signal.Signals) -> None:
    """Send a signal to every process of a sandbox; `SIGSTOP` and `SIGCONT` pause and resume it."""
    for pid in _marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def is_marked(mark: str) -> bool:
    """Return whether a process of this mark is alive."""
    return any(_marked(mark))


def group_is_alive(group: int) -> bool:
    """Return whether a process of this process group runs; a process that waits to be reaped does not count."""
    for pid in _pids():
        with suppress(OSError):
            # Fields after the command's name, which may contain spaces and brackets: state, parent, group.
            state, _, of_process = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
            if int(of_process) == group and state not in {"Z", "X"}:
                return True
    return False


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it still exists."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _marked(mark: str) -> Iterator[int]:
    beginning = f"{MARK}={mark}".encode()
    for pid in _pids():
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if environment.startswith(beginning) or b"\0" + beginning in environment:
                yield pid


def _pids() -> Iterator[int]:
    own = os.getpid()
    # Not `os.scandir`: a caller that has found its process leaves this generator, and an open iterator would remain.
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and int(name) != own:
            yield int(name)
