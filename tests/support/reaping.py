"""Kills all processes that a test run started when the run ends: finished, interrupted or killed.

The process that was started as pytest forks twice: first → reaper → pytest. Only the last process runs the tests. The
reaper is the sub-reaper (`PR_SET_CHILD_SUBREAPER`) of all processes that pytest, its workers and their tests start: a
process that loses its parent becomes a child of the reaper, also a daemon in another session. When pytest has ended, or
when the first process was killed (`PR_SET_PDEATHSIG` reports this), the reaper kills all remaining processes below it.
The first process forwards signals and ends with the exit code of pytest. If the reaper itself is killed, the kernel
interrupts pytest, whose fixtures then stop their processes.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from muster.shim.keeper import descendants, kill_all

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_ORPHANED = signal.SIGUSR1
_HEARD = {*_PASSED_ON, _ORPHANED, signal.SIGCHLD}
_prctl = ctypes.CDLL(None).prctl


def leave_nothing_running() -> None:
    """Fork twice and return in the grandchild, whose parent is the reaper. Call this once, before any thread starts."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    if reaper := _forked(_ORPHANED):
        _end_as(reaper)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if pytest := _forked(signal.SIGINT):
        _end_as(pytest)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forked(told_of_our_death: signal.Signals) -> int:
    parent, child = os.getpid(), os.fork()
    if not child:
        _prctl(_PR_SET_PDEATHSIG, int(told_of_our_death), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    return child


def _end_as(child: int) -> NoReturn:
    """Wait until the child ends, kill all remaining descendants, and exit with the child's exit code."""
    try:
        code = _code_of(child)
        _clear()
        os._exit(code if code >= 0 else 128 - code)
    finally:
        os._exit(1)


def _code_of(child: int) -> int:
    """Wait until the child or the parent ends; meanwhile reap orphans and forward signals.

    A signal of the kernel is not forwarded, because a terminal sends it to all processes of its foreground group."""
    while True:
        with suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                if dead[0] == child:
                    return os.waitstatus_to_exitcode(dead[1])
        heard = signal.sigwaitinfo(_HEARD)
        if heard.si_signo == _ORPHANED:
            return -signal.SIGKILL
        if heard.si_signo in _PASSED_ON and heard.si_code <= 0:
            os.kill(child, heard.si_signo)


def _clear() -> None:
    """Kill descendants until there are none; a process that is forked meanwhile is found in the next round."""
    with suppress(ChildProcessError):
        while True:
            kill_all(descendants(os.getpid()))
            os.waitpid(-1, 0)
