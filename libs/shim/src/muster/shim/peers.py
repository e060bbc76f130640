"""Recognises connections of a process's own descendants, which a server that starts hostile programs must refuse.

At the levels without isolation of files, a worker can reach the unix sockets that its user may use.
"""

import os
import select
import socket
import struct
from pathlib import Path

_SO_PEERPIDFD = 77
_CREDENTIALS = struct.Struct("3i")
_MOST_ANCESTORS = 4096


def is_descendant(connection: socket.socket, ancestor: int) -> bool:
    """Whether the process that made a connection of a unix socket descends from `ancestor`.

    A process that has ended, or that has no pid here, also counts as a descendant, because nothing else is known of it.
    """
    pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        # Linux 6.5 and later name the very process. Older kernels only have its pid, which could be reused.
        peer = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        peer = -1
    try:
        descends = _descends(pid, ancestor)
        # If the peer has ended meanwhile, its pid may be that of another process.
        return descends or (peer >= 0 and bool(select.select([peer], [], [], 0)[0]))
    finally:
        if peer >= 0:
            os.close(peer)


def _descends(pid: int, ancestor: int) -> bool:
    if pid <= 0:
        return True
    for _ in range(_MOST_ANCESTORS):
        if pid == ancestor:
            return True
        parent = _parent(pid)
        if parent is None or not parent:
            return parent is None  # A process whose parent has the pid 0 is the first one.
        pid = parent
    return True


def _parent(pid: int) -> int | None:
    """Return the pid of the parent of a process, or None if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return None
