"""Holds the limits of workers: with a cgroup for each worker if the kernel permits, and otherwise with what remains.

| limit | cgroup v2 | without |
| --- | --- | --- |
| memory of all processes | `memory.max` | measured by `limit_watch.py`; `RLIMIT_DATA` bounds one process meanwhile |
| processes | `pids.max` | `pid_max` (shim is root) or `RLIMIT_NPROC`; at weaker levels possibly only counted |
| CPU | `cpu.max` | lower priority than the services |
| file size, open files, CPU time of one process | resource limits | resource limits |

A keeper has its limits before it gets its order, and a forked worker before it runs, so that no code of a worker runs
without them. If a cgroup cannot be made although the shim uses cgroups, the worker is not started.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

from muster.shim.cgroups import CONTROLLERS, WorkerCgroups
from muster.shim.host_paths import FLAGS, PYTHON
from muster.shim.keeper_channel import spawn
from muster.shim.limits import over_memory
from muster.shim.protocol import LimitMechanism
from muster.shim.worker_limits import Limits

_NICE = 5
"""Priority of workers without a CPU controller: below that of the services, which have 0."""
RESERVED_PIDS = 300
"""After the first wrap the kernel gives no pid below 300 again. So `pid_max` lets up to 300 more processes exist."""
_LIMITER_S = 2.0


class LimitEnforcer:
    """Gives each worker of one shim its limits, and says how they hold."""

    def __init__(self, cgroups: WorkerCgroups | None, why: str, limiter: "PidLimiter | None") -> None:
        self._cgroups, self._limiter = cgroups, limiter
        self._limits: dict[str, Limits] = {}
        granted = cgroups.controllers if cgroups else frozenset[str]()
        self.mechanism: LimitMechanism = "cgroup" if granted == frozenset(CONTROLLERS) else "rlimits"
        self.why = why
        self.watches_memory = "memory" not in granted
        self._counts, self._has_cpu = "pids" in granted, "cpu" in granted

    @classmethod
    def opened(cls, state: Path, limiter: str) -> "LimitEnforcer":
        """Return the limits of a shim with this state directory. `limiter` is the compiled program `pid_limiter`."""
        cgroups, why = WorkerCgroups.opened(state)
        return cls(cgroups, why, PidLimiter(limiter) if os.geteuid() == 0 else None)

    @property
    def pids(self) -> list[int]:
        """The pids of the programs that the shim runs for this purpose."""
        return [self._limiter.pid] if self._limiter and self._limiter.pid else []

    def of(self, key: str) -> Limits | None:
        """Return the limits of a running worker."""
        return self._limits.get(key)

    def contain(self, key: str, keeper: int, limits: Limits) -> None:
        """Limit a keeper, and with it all processes that it will start. Raises `OSError`."""
        self._limits[key] = limits
        if self._cgroups:
            self._cgroups.add(key, keeper, limits)
        if not self._counts and self._limiter and limits.processes is not None:
            # Without an own pid namespace or a new kernel, the processes are counted from time to time.
            with suppress(OSError):
                self._limiter.limit(keeper, RESERVED_PIDS + limits.processes)
        self._lower_priority(keeper)

    def join(self, key: str, worker: int) -> None:
        """Limit a worker that is no descendant of the process that started its keeper. Raises `OSError`."""
        if self._cgroups:
            self._cgroups.move(key, worker)
        self._lower_priority(worker)

    def kill(self, key: str) -> None:
        """Kill all processes of a worker at once, if it has a cgroup."""
        if self._cgroups:
            self._cgroups.kill(key)

    def ended(self, key: str) -> str | None:
        """Forget a worker whose keeper has ended. Return the limit that the kernel killed it for, if any."""
        limits = self._limits.pop(key, None)
        if self._cgroups and self._cgroups.remove(key) and limits and limits.memory_bytes:
            return over_memory(limits.memory_bytes)
        return None

    def tidy(self) -> None:
        """Remove what ended workers could not remove yet."""
        if self._cgroups:
            self._cgroups.remove_ended()

    def close(self) -> None:
        """Remove the cgroups of this shim and end its programs."""
        if self._cgroups:
            self._cgroups.close()
        if self._limiter:
            self._limiter.close()

    def _lower_priority(self, pid: int) -> None:
        if not self._has_cpu:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, _NICE)


class PidLimiter:
    """The program `pid_limiter`, which is started with the first worker that needs it, and again after its end."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._socket: socket.socket | None = None
        self.pid = 0

    def limit(self, keeper: int, highest: int) -> None:
        """Limit the pids in the pid namespace of a keeper. Raises `OSError`."""
        limiter = self._socket or self._started()
        try:
            limiter.send(b"%d %d" % (keeper, highest))
            answer = limiter.recv(1000)
        except OSError:
            answer = b""
        if not answer:
            self.close()
        if answer != b"ok":
            raise OSError(answer.decode(errors="replace") or "the pid limiter has ended")

    def close(self) -> None:
        """End the program."""
        if self._socket:
            self._socket.close()
        self._socket, self.pid = None, 0

    def _started(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_LIMITER_S)
        with theirs, Path(os.devnull).open("r+b") as null:
            self.pid = spawn([PYTHON, *FLAGS, self._program], [theirs.fileno(), null.fileno(), null.fileno()])
        self._socket = ours
        return ours
