"""The fork server of an agent package: imports the package's modules once, and forks a worker for each request.

The shim runs this file compiled, as `python -I fork_server.pyc`, inside the outer bubblewrap of the package. Descriptor
0 is a packet socket to the shim, 3 is a memory file with the `ForkServerSettings` as JSON. When all modules are
imported, the fork server writes the paths and times of their files to this memory file, and sends `ready`.

Each packet `fork` of the shim carries four descriptors: a socket to the keeper of the new worker, a socket to the shim,
the output pipe, and a memory file with the `ForkedOrder` as JSON.

    fork server --fork--> joiner: joins all namespaces of the keeper by `setns`, and ends
                            +--fork--> (first process in the pid namespace of the keeper) ends at once
                                          +--fork--> worker: becomes the keeper's child, drops all capabilities,
                                                     tells its pid, and runs the package's `__main__`

So a worker gets the isolation of its keeper, which an ordinary `bwrap` has made, before the worker reads anything of
its task. The fork server itself sees no directory of any sandbox and has no capabilities and no network.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

_SHIM, _SETTINGS = 0, 3
_READY_FD = 3
_PR_SET_DUMPABLE, _PR_SET_NAME, _PR_CAPBSET_DROP = 4, 15, 24
_NAME_BYTES = 15
_CAPABILITIES = 64
_NO_CAPABILITIES = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4), bytes(24)
_JOINED = os.CLONE_NEWUSER | os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWIPC | os.CLONE_NEWUTS
_MOST_TEXT = 2000
_SOFT_LIMITS = dict[int, int]()
"""The soft limits that this process had at its start."""


def main() -> None:
    """Import the modules, and fork workers until the shim closes the socket. Returns only in a worker, at its end."""
    settings = json.loads(_content(_SETTINGS))  # noqa: TID251 - runs without the packages of Muster
    shim = socket.socket(fileno=_SHIM)
    try:
        _import(settings)
    except BaseException:  # noqa: BLE001 - the shim receives every reason, also that of a `SystemExit`
        shim.send(b"failed " + traceback.format_exc(limit=-3)[-_MOST_TEXT:].strip().encode(errors="replace"))
        return
    os.ftruncate(_SETTINGS, 0)
    os.pwrite(_SETTINGS, json.dumps(_files()).encode(), 0)
    os.close(_SETTINGS)
    shim.send(b"ready")
    while True:
        packet, descriptors, *_ = socket.recv_fds(shim, 64, 8)
        if not packet:
            return
        if not os.fork():
            shim.close()
            _join(descriptors, network=settings["network"])
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _import(settings: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(settings["env"])
    sys.path[:0] = settings["import_paths"]
    sys.dont_write_bytecode = True
    for which, most in settings["limits"]:
        # Only the soft limits, because a worker gets limits of its own instead.
        _SOFT_LIMITS[which] = resource.getrlimit(which)[0]
        resource.setrlimit(which, (most, resource.getrlimit(which)[1]))
    gc.disable()
    for module in settings["modules"]:
        importlib.import_module(module)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no further import
    if threads > 1:
        raise RuntimeError(f"the imported modules have started {threads - 1} threads, which a fork would lose")
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps the joiners.


def _files() -> dict[str, int]:
    """Return the files of all imported modules and the times of their last change, in nanoseconds."""
    files = dict[str, int]()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        # The file of this program has another path outside of the sandbox.
        if isinstance(path, str) and path.startswith("/") and path != __file__:
            with suppress(OSError):
                files[path] = os.stat(path).st_mtime_ns  # noqa: PTH116 - as above
    return files


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _join(descriptors: list[int], *, network: bool) -> None:
    """Join the namespaces of the keeper, and run the worker in a grandchild. Returns only in the worker."""
    joining, shim = (socket.socket(fileno=descriptor) for descriptor in descriptors[:2])
    try:
        _, (keeper,), *_ = socket.recv_fds(joining, 64, 1)
        _setns(keeper, _JOINED if network else _JOINED | os.CLONE_NEWNET)
        if os.fork():
            os._exit(0)
        if os.fork():
            os._exit(0)
        # The process in between has ended or will end at once. Then the keeper, the init process, is the parent.
        while os.getppid() != 1:
            os.sched_yield()
        order = json.loads(_content(descriptors[3]))  # noqa: TID251 - as above
        _prepare(order, joining, shim, descriptors[2])
    except BaseException as error:  # noqa: BLE001 - the shim receives every reason
        with suppress(OSError):
            shim.send(f"unable {type(error).__name__}: {error}"[:_MOST_TEXT].encode(errors="replace"))
        os._exit(1)
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _setns(keeper: int, namespaces: int) -> None:
    try:
        os.setns(keeper, namespaces | os.CLONE_NEWCGROUP)
    except OSError:  # `bwrap` makes no cgroup namespace on a kernel without them.
        os.setns(keeper, namespaces)


def _prepare(order: dict[str, Any], joining: socket.socket, shim: socket.socket, output: int) -> None:
    """Give this process what a program that the keeper starts would have, and nothing else."""
    os.setsid()
    program = ctypes.CDLL(None)
    for capability in range(_CAPABILITIES):
        program.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if program.capset(*_NO_CAPABILITIES):
        raise OSError("the kernel did not take the capabilities of the worker away")
    program.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    program.prctl(_PR_SET_NAME, order["module"][-_NAME_BYTES:].encode(), 0, 0, 0)
    shim.send(b"pid")
    joining.send(b"here")
    if joining.recv(64) != b"go":
        raise ConnectionError("the keeper has ended")
    null = os.open("/dev/null", os.O_RDONLY)
    ready, joined = shim.detach(), joining.detach()
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.dup2(ready, _READY_FD, inheritable=False)
    os.closerange(_READY_FD + 1, max(ready, joined, null, output, *map(int, os.listdir("/proc/self/fd"))) + 1)  # noqa: PTH208
    for which, soft in _SOFT_LIMITS.items():
        resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))
    for which, most in order["limits"]:
        hard = resource.getrlimit(which)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (bound, bound))
    os.environ.clear()
    os.environ.update(order["env"])
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in order["env"]
    time.tzset()
    os.chdir(order["cwd"])
    sys.argv = ["-m", *order["arguments"]]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()


if __name__ == "__main__":
    main()
