"""Keeps the kernel's keys of the shim's session, such as tickets of a login, away from workers."""

import ctypes

from muster.shim.seccomp import call_numbers

_JOIN_SESSION, _SET_PERMISSIONS = 1, 5


def leave_session_keyring() -> None:
    """Replace the session keyring of this process by an empty one. Descendants inherit it, and no process can use it.

    Does nothing if the kernel has no keyrings. A descendant can still make a keyring of its own.
    """
    calls, kernel = call_numbers(), ctypes.CDLL(None)
    if calls is None:
        return
    keyring = kernel.syscall(calls.numbers["keyctl"], _JOIN_SESSION, None)
    if keyring > 0:
        kernel.syscall(calls.numbers["keyctl"], _SET_PERMISSIONS, keyring, 0)
