"""Cuts connections of another process: copies their descriptors and shuts the sockets down."""

import contextlib
import ctypes
import os
import socket
from pathlib import Path

PIDFD_GETFD = 438
"""Number of the system call pidfd_getfd, which is the same on every architecture (since Linux 5.6)."""


def sever_unix_connections(pid: int) -> int:
    """Shut down every connected unix socket of the process `pid`; return the number of these sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    severed = 0
    watched = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # The descriptor was closed meanwhile, or is not connected.
                if not str(entry.readlink()).startswith("socket:"):
                    continue
                copy = libc.syscall(PIDFD_GETFD, watched, int(entry.name), 0)
                if copy < 0:
                    continue
                with socket.socket(fileno=copy) as connection:
                    if connection.family == socket.AF_UNIX and connection.getpeername():
                        connection.shutdown(socket.SHUT_RDWR)
                        severed += 1
    finally:
        os.close(watched)
    return severed
