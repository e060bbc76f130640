"""The keeper of a forked worker: makes the sandbox that the worker joins, and then supervises the worker as its child.

The shim runs this file compiled, as `python -I -S joined_keeper.pyc`, as the init process of the worker's bubblewrap.
The descriptors are those of `keeper.py`, but 4 is a socket to the fork server, and 3 is empty.

    shim:              go                               go                            term*       kill
    keeper: --keeper-> wait --join + pidfd--> --joined-> wait --go--> started --> running --> KILL all --> exited
    worker:                 joins, becomes the keeper's child --here--^

If the fork server forks no worker, the keeper sends `unable` and ends. Then the shim starts the worker without it.
"""

import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `typing` takes longer than the rest of this program.
    from typing import override

    from muster.shim.keeper import KeeperOrder, WorkerKeeper, keeper_order
else:
    sys.path.append("/")  # The shim binds the compiled keeper there, beside this program.
    from keeper import KeeperOrder, WorkerKeeper, keeper_order

    def override(method: object) -> object:
        """Replace `typing.override`."""
        return method


_SOCKET, _ORDER, _JOIN = 0, 3, 4
_PR_SET_DUMPABLE = 4
_CREDENTIALS_BYTES, _INT_BYTES = 12, 4


class JoinedKeeper(WorkerKeeper):
    """The keeper of a worker that a fork server forks. The worker joins the namespaces of this keeper."""

    def __init__(self) -> None:
        # The worker has all capabilities in the user namespace that it joins, until it drops them. So this namespace
        # must not be the one that owns the sandbox's mounts and network.
        user, group = os.getuid(), os.getgid()
        os.unshare(os.CLONE_NEWUSER)
        self.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(descriptor, text.encode())
            os.close(descriptor)
        self.drop_capabilities()
        super().__init__()

    @override
    def start_worker(self, order: KeeperOrder) -> bytes:  # noqa: ARG002 - the fork server has the order
        """Let the fork server's process join this sandbox, and take it as the worker. Return an empty error text."""
        joining = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _JOIN)
        joining.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        own = os.pidfd_open(os.getpid())
        try:
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, own.to_bytes(_INT_BYTES, sys.byteorder))]
            joining.sendmsg([b"join"], rights)
            body, ancillary, *_ = joining.recvmsg(64, _socket.CMSG_SPACE(_CREDENTIALS_BYTES))
            if body == b"here":
                worker = int.from_bytes(ancillary[0][2][:_INT_BYTES], sys.byteorder)
                self.send(b"joined")  # The shim now limits the worker, and then sends `go`.
                if os.read(_SOCKET, 64) == b"go":
                    self.worker = worker
                    joining.send(b"go")
        except OSError:
            self.worker = 0
        if not self.worker:
            self.send(b"unable the fork server forked no worker")
            os._exit(1)
        joining.close()
        os.close(own)
        os.close(_ORDER)
        return b""


if __name__ == "__main__":
    joined_keeper = JoinedKeeper()
    if (order := keeper_order()) is not None:
        joined_keeper.run(order)
    os._exit(0)
