"""Nothing that a test run started outlives it, however it ends: finished, interrupted, killed.

The process that was started as pytest forks twice: first → reaper → pytest, and only the last goes on. The reaper is
the sub-reaper (`PR_SET_CHILD_SUBREAPER`) of all that pytest, its workers and their tests start: whoever loses their
parent becomes its child, daemons with sessions of their own too. When pytest has ended, or the first process was
killed (`PR_SET_PDEATHSIG` tells), it kills what is left below it. The first process passes signals on and ends as
pytest did. Should the reaper be killed, the kernel interrupts pytest, whose fixtures then clear away.
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
    """Return in a grandchild, which is below a reaper from now on. Call it once, before there are threads."""
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
    """Wait for its end, let nothing remain below us, and exit as it did."""
    try:
        code = _code_of(child)
        _clear()
        os._exit(code if code >= 0 else 128 - code)
    finally:
        os._exit(1)


def _code_of(child: int) -> int:
    """Bury orphans, and pass signals on, unless a terminal sent them to all of us, until it or our parent ends."""
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
    """Kill until nothing is left: whoever forks meanwhile is found by the next look."""
    with suppress(ChildProcessError):
        while True:
            kill_all(descendants(os.getpid()))
            os.waitpid(-1, 0)
