"""Hides a process's memory and environment from other processes of the same user.

A process that is not "dumpable" cannot be traced, and its /proc/PID/environ, mem and fd belong to root. So only a
process with CAP_SYS_PTRACE can read them. An exec makes a process dumpable again, so each program must call this module
at its start.
"""

import ctypes

_PR_SET_DUMPABLE = 4


def hide_from_other_processes() -> None:
    """Make this process not dumpable. Raises `OSError` if the kernel refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refused to hide the memory of this process")
