"""What clients and the shim say to each other: one JSON object per line, over a unix socket.

Every request carries an `id`; its reply carries the same one. Requests may be pipelined and are answered as they
finish.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from muster.common.faults import Fault, InvalidMessage

MAX_LINE_BYTES = 4 << 20
"""The longest request line read, and with room to spare the longest reply written."""

MAX_OUTPUT_BYTES = 1 << 20
"""The most output one request returns."""

MAX_PATH_BYTES = 107
"""A unix socket's address holds 108 bytes, one of them the closing zero."""

LEASE_S = 60.0

IsolationLevel = Literal["bubblewrap", "plain"]
IsolationChoice = Literal["auto", "bubblewrap", "plain"]
"""`auto` is the strongest level that works here, and never `plain`."""
StoppedBy = Literal["request", "lease", "timeout", "shim"]
Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}\Z")]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kernel holds a worker to. Core files are never written.

    `memory_bytes` limits each process's address space, which runtimes that reserve far more than they use do not
    survive; `processes` counts all processes of the user.
    """

    open_files: Positive = 4096
    cpu_s: Positive | None = None
    memory_bytes: Positive | None = None
    file_bytes: Positive | None = None
    processes: Positive | None = None


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as the shim knows it. (`pid`, `start_ticks`) names its process on the host for ever.

    Both are missing only while it starts, and may be where it could not be started, which `error` then explains.
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
    stopped_by: StoppedBy | None = None
    error: str | None = None


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """The level every worker of this shim gets, and why it is that one."""

    level: IsolationLevel
    why: str


class ShimRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower):
    """Any request; `op` says which."""

    id: int


class LaunchRequest(ShimRequest, frozen=True, kw_only=True):
    """Start a worker, unless the key is known. Answered with its `ProcessRecord` once it runs or has failed to."""

    key: Key
    argv: Annotated[list[str], msgspec.Meta(min_length=1)]
    cwd: str
    env: dict[str, str] = {}
    writable: list[str] = []
    readable: list[str] = []
    network: bool = False
    limits: Limits = Limits()
    lease_s: Seconds | None = LEASE_S
    timeout_s: Seconds | None = None
    again: bool = False
    """Should it crash, another one with the same paths is likely to be asked for at once."""


class Get(ShimRequest, frozen=True, kw_only=True):
    """Answered with a `ProcessRecord`, or null."""

    key: Key


class List(ShimRequest, frozen=True, kw_only=True):
    """Answered with every `ProcessRecord` whose key starts so."""

    prefix: str = ""


class Output(ShimRequest, frozen=True, kw_only=True):
    """Answered with an `OutputPage`. A negative offset counts from the end."""

    key: Key
    offset: Annotated[int, msgspec.Meta(gt=-(1 << 62), lt=1 << 62)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_BYTES)] = MAX_OUTPUT_BYTES


class StopRequest(ShimRequest, frozen=True, kw_only=True):
    """TERM to the worker's group, `grace_s`, KILL of all below. Answered with the `ProcessRecord` once all is gone."""

    key: Key
    grace_s: Seconds = 5.0


class Remove(ShimRequest, frozen=True, kw_only=True):
    """Kill what runs and forget the key, its record and its output. Answered with null; unknown is fine."""

    key: Key


class Renew(ShimRequest, frozen=True, kw_only=True):
    """Start the leases of these again. Answered with the keys that are running and were renewed."""

    keys: list[Key] = []
    prefix: str | None = None


class WaitRequest(ShimRequest, frozen=True, kw_only=True):
    """Answered with the `ProcessRecord` once the worker has ended."""

    key: Key


class Watch(ShimRequest, frozen=True, kw_only=True):
    """Answered without end: every exit numbered above `after`, the past ones first."""

    after: int = 0


class WatchOutput(ShimRequest, frozen=True, kw_only=True, tag="prints"):
    """Answered without end: the keys that printed or ended, of those that start so; all there are come first."""

    prefix: str = ""


class Probe(ShimRequest, frozen=True, kw_only=True):
    """Answered with the `Isolation`."""


AnyRequest = (
    LaunchRequest | Get | List | Output | StopRequest | Remove | Renew | WaitRequest | Watch | WatchOutput | Probe
)


class OutputPage(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a worker's output; what is older than the kept tail is skipped."""

    body: bytes
    next_offset: int


class ShimRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A `Fault` on the wire."""

    code: str
    text: str
    field: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "ShimRefusal":
        """What may be told of `error`."""
        fault = Fault.of(error)
        return cls(code=fault.code, text=str(fault), field=fault.field)

    def fault(self) -> Fault:
        """The fault it was."""
        return Fault.named(self.code)(self.text, field=self.field)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Answers the request of the same `id`; 0 where the request had none that could be read."""

    id: int
    body: msgspec.Raw = msgspec.Raw(b"null")
    refusal: ShimRefusal | None = None


def checked_socket_path(path: Path | str) -> str:
    """`path` as text. Raises `InvalidMessage` where a unix socket cannot have it."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise InvalidMessage(
            f"the shim's socket path is {size} bytes long and unix sockets allow {MAX_PATH_BYTES}: "
            f"choose a shorter directory than {Path(path).parent}",
            field="$.socket",
        )
    return str(path)
