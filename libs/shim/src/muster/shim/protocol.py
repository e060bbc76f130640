"""The wire protocol between the shim and its clients: one JSON object per line, over a unix socket.

Every request has an `id`, and its reply has the same `id`. Clients may send many requests at the same time. The shim
replies to each request when the request is done, in any order.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from muster.common.faults import Fault, InvalidMessage
from muster.common.isolation_levels import IsolationLevel
from muster.shim.worker_limits import Limits

MAX_LINE_BYTES = 4 << 20
"""Most bytes of a request line. Every reply is shorter."""

MAX_OUTPUT_BYTES = 1 << 20
"""Most bytes of output that one request returns."""

MAX_PATH_BYTES = 107
"""Most bytes of a unix socket's path: its address has 108 bytes, one of them the closing zero."""

LEASE_S = 60.0
"""Seconds after which a worker is stopped unless its client renews the lease."""

IsolationChoice = Literal["auto"] | IsolationLevel
"""The isolation that is asked for. `auto` means the strongest level that works on this machine and is permitted."""
StoppedBy = Literal["request", "lease", "timeout", "shim", "limit"]
"""What stopped a worker: a request, the end of its lease or time limit, the end of the shim, or one of its `Limits`."""
LimitMechanism = Literal["cgroup", "rlimits"]
"""What holds the limits of workers: a cgroup v2 for each one, or resource limits of processes and measurements."""
Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}\Z")]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Preload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fork server, which imports `modules` once. The workers of all launches with an equal `Preload` are its forks.

    Every path of such a launch must lie in one of `roots` or `readable`. The fork server can read `readable`, but no
    directory in `roots`.
    """

    modules: Annotated[list[str], msgspec.Meta(min_length=1)]
    roots: list[str] = []
    """Directories that contain the writable paths of all workers, such as the directories of all sandboxes."""
    readable: list[str] = []
    import_paths: list[str] = []
    """Directories from which the fork server imports modules, in addition to those of the interpreter."""


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one worker. `pid` and `start_ticks` identify its process, even if the host reuses the pid.

    Both fields are None while the worker starts. They may stay None if the worker could not be started. Then `error` is
    the reason.
    """

    key: str
    state: Literal["running", "exited"]
    isolation: IsolationLevel
    started_at: datetime
    pid: int | None = None
    start_ticks: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    ended_at: datetime | None = None
    exit_no: int | None = None
    """Number of the exit in the order of all exits of this shim, from 1."""
    stopped_by: StoppedBy | None = None
    error: str | None = None
    forked: bool = False
    """Whether a fork server started the worker, which then has imported its modules already."""
    not_forked: str | None = None
    """Why the worker was started without a fork server although its launch names one."""
    start_s: float | None = None
    """Seconds from the launch until the worker was ready. None if the worker has not said so."""
    private_bytes: int | None = None
    """Memory that only the worker's processes use, at the last measurement. None before the first one."""
    limits: LimitMechanism = "rlimits"
    bounds: Limits | None = None
    """The limits of the worker."""
    exceeded: str | None = None
    """The limit that the worker has exceeded, for which all its processes were killed."""
    deleted_bytes: int = 0
    """Disk space of removed files that the worker's processes have open or mapped, at the last measurement."""
    hidden_files: bool = False
    """Whether the worker may hold removed files whose size the shim could not read, at the last measurement."""


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """The isolation level of all workers of this shim, and the reason for this level."""

    level: IsolationLevel
    why: str
    cannot_fork: str | None = None
    """Why no worker is forked from a fork server on this machine. None if the test at the start succeeded."""
    failed: dict[IsolationLevel, str] = {}
    """The stronger levels that do not work on this machine, each with its reason."""
    limits: LimitMechanism = "rlimits"
    limits_why: str = ""
    """The directory of the workers' cgroups, or why the shim makes none."""


class ShimRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower):
    """Base class of all requests to the shim. The field `op` names the kind of request."""

    id: int


class LaunchRequest(ShimRequest, frozen=True, kw_only=True):
    """Start a worker, unless the key is known. The `ProcessRecord` is sent when the worker has started or failed."""

    key: Key
    argv: Annotated[list[str], msgspec.Meta(min_length=1)]
    cwd: str
    env: dict[str, str] = {}
    writable: list[str] = []
    readable: list[str] = []
    network: bool = False
    limits: Limits = Limits()
    preload: Preload | None = None
    """The fork server that starts the worker, if `argv` is `[the shim's Python, "-m", module, …]`."""
    lease_s: Seconds | None = LEASE_S
    timeout_s: Seconds | None = None
    at_least: IsolationLevel | None = None
    """The weakest level at which the worker may run. A weaker shim refuses the launch."""

    @property
    def all_readable(self) -> list[str]:
        """The readable paths, and the working directory if it is below no path of the launch."""
        is_bound = any(Path(self.cwd).is_relative_to(path) for path in (*self.writable, *self.readable))
        return self.readable if is_bound else [*self.readable, self.cwd]


class Prepare(ShimRequest, frozen=True, kw_only=True):
    """Start a fork server, unless it runs. The reply is null, or the reason why no worker can be forked from it."""

    preload: Preload
    network: bool = False


class Get(ShimRequest, frozen=True, kw_only=True):
    """Read the record of a worker. The reply is the `ProcessRecord`, or null if the key is unknown."""

    key: Key


class List(ShimRequest, frozen=True, kw_only=True):
    """Read the records of workers. The reply contains every `ProcessRecord` whose key starts with `prefix`."""

    prefix: str = ""


class Output(ShimRequest, frozen=True, kw_only=True):
    """Read a part of a worker's output. The reply is an `OutputPage`. A negative offset counts from the end."""

    key: Key
    offset: Annotated[int, msgspec.Meta(gt=-(1 << 62), lt=1 << 62)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_BYTES)] = MAX_OUTPUT_BYTES


class StopRequest(ShimRequest, frozen=True, kw_only=True):
    """Send TERM to a worker, and KILL after `grace_s` seconds. With `exceeded`, send KILL at once.

    The reply is the `ProcessRecord`, sent when all processes of the worker have ended.
    """

    key: Key
    grace_s: Seconds = 5.0
    exceeded: str | None = None
    """The limit that the worker has exceeded, if the client has found that. The worker's record then contains it."""


class Remove(ShimRequest, frozen=True, kw_only=True):
    """Kill a worker, and delete its record and output. The reply is null, also for an unknown key."""

    key: Key


class Renew(ShimRequest, frozen=True, kw_only=True):
    """Renew the leases of the running workers with these `keys` or this key `prefix`. The reply contains their keys."""

    keys: list[Key] = []
    prefix: str | None = None


class WaitRequest(ShimRequest, frozen=True, kw_only=True):
    """Wait for the end of a worker. The reply is the worker's `ProcessRecord`."""

    key: Key


class Watch(ShimRequest, frozen=True, kw_only=True):
    """Watch exits of workers. The shim sends a reply for each exit numbered above `after`, in order, without end."""

    after: int = 0


class WatchOutput(ShimRequest, frozen=True, kw_only=True, tag="prints"):
    """Watch the output of workers. The shim sends replies without end, with the keys of workers that changed.

    The first reply contains all keys that start with `prefix`. Later replies contain the keys of the workers that have
    new output or have ended.
    """

    prefix: str = ""


class Probe(ShimRequest, frozen=True, kw_only=True):
    """Read the isolation level of this shim. The reply is the `Isolation`, sent when the shim is ready."""


AnyRequest = (
    LaunchRequest
    | Prepare
    | Get
    | List
    | Output
    | StopRequest
    | Remove
    | Renew
    | WaitRequest
    | Watch
    | WatchOutput
    | Probe
)


class OutputPage(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a worker's output, and the offset after this piece. Output that was deleted is skipped.

    `lines_before` is the number of line ends in the whole output before `body`. It is -1 (unknown) unless `body` begins
    with the oldest stored byte or ends with the newest.
    """

    body: bytes
    next_offset: int
    lines_before: int = -1


class ShimRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error reply of the shim, encoded from a `Fault`."""

    code: str
    text: str
    field: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "ShimRefusal":
        """Return the error reply for an exception.

        An unexpected exception becomes an internal error without details.
        """
        fault = Fault.of(error)
        return cls(code=fault.code, text=str(fault), field=fault.field)

    def fault(self) -> Fault:
        """Return the `Fault` that this error reply encodes."""
        return Fault.named(self.code)(self.text, field=self.field)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to the request with the same `id`. The id is 0 if the shim could not read the request's id."""

    id: int
    body: msgspec.Raw = msgspec.Raw(b"null")
    refusal: ShimRefusal | None = None


def checked_socket_path(path: Path | str) -> str:
    """Return the path as text. Raises `InvalidMessage` if it is too long for a unix socket."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise InvalidMessage(
            f"the shim's socket path is {size} bytes long, but a unix socket allows {MAX_PATH_BYTES}; "
            f"choose a shorter directory than {Path(path).parent}",
            field="$.socket",
        )
    return str(path)
