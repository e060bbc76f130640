"""The interface of a provider, which makes sandboxes and runs processes in them.

The gateway may call every method again after a crash. The gateway chooses the keys of sandboxes and processes, and a
provider returns the existing sandbox or process for a known key. The page `docs/providers.md` shows how to write a
provider, and `tests/conformance` tests each one.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from muster.common.contracts.packages import Resources
from muster.common.contracts.task_spec import NetworkMode

WORKER = "worker"
"""The key of the process that runs the agent. Each sandbox has at most one."""


class ProviderCapability(StrEnum):
    """What a provider can do beyond the methods that every provider has."""

    HOST_CODE = "host_code"
    """Processes read the agent packages of the gateway's host, so that no code is uploaded."""
    PAUSE = "pause"
    """`pause` keeps the memory of a sandbox, and `start` continues it."""
    SNAPSHOT = "snapshot"
    """`snapshot` stores the files of a sandbox under a name from which other sandboxes can be made."""
    FORK = "fork"
    """`fork` makes a second sandbox with the same files."""
    PRELOAD = "preload"
    """`preload` imports the modules of an agent package, so that its workers start faster."""
    ENDPOINT = "endpoint"
    """`endpoint` returns a URL at which a port of the sandbox can be reached."""


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The sandbox that is wanted. `sandbox_id` is its key."""

    sandbox_id: str
    labels: dict[str, str] = {}
    """Labels by which an operator finds the sandbox at its provider: task, agent and epoch."""
    env: dict[str, str] = {}
    """Environment variables of all processes. They contain no secrets."""
    network: NetworkMode = "none"
    """The network of the sandbox. With `allow-list`, it reaches only `hosts`.

    The means is the gateway's proxy at the layout's `egress_socket`, or one of the provider's own.
    """
    hosts: list[str] = []
    """Hosts that the sandbox may reach with `allow-list`, each with a port after a colon or the ports 80 and 443. `*.`
    stands for all subdomains."""
    lifetime_s: float = 86_400.0
    """Seconds after which the provider may remove the sandbox, even if no gateway runs any more."""


class SandboxLayout(msgspec.Struct, frozen=True):
    """Paths inside a sandbox, as its processes see them, and the addresses at which they reach the gateway."""

    workspace: str
    state_dir: str
    run_dir: str
    python: str
    """The program that runs Python code in the sandbox."""
    gateway_url: str
    gateway_socket: str | None
    egress_socket: str | None = None
    """The unix socket of the proxy through which the sandbox reaches the hosts of its allow-list."""


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The process that is wanted. `key` names it within its sandbox."""

    key: str
    argv: list[str]
    cwd: str
    env: dict[str, str] = {}
    readable: list[str] = []
    """Paths that `provide` returned and that the process reads."""
    limits: Resources = Resources()
    module: str | None = None
    """The agent package's module that `argv` runs, so that a provider can start it from a parent that imported it."""
    preload: tuple[str, ...] = ()
    """Modules that such a parent imports. Without any, the process is started by itself."""
    timeout_s: float
    """Seconds after which the provider ends the process."""
    host_network: bool = False
    """Whether the process uses the network of the sandbox's host instead of none."""
    leased: bool = False
    """Whether the provider ends the process if `touch` is not called for some time."""


class ProcessState(msgspec.Struct, frozen=True):
    """The state of a process in a sandbox, as reported by the provider."""

    running: bool
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None
    isolation: str = "unknown"
    limits: Resources | None = None
    """The limits of the process, if the provider holds them."""
    limited_by: str | None = None
    """What holds these limits: `cgroup`, `rlimits` (limits of each process, and measurements), or another provider."""
    exceeded: str | None = None
    """The limit that the process has exceeded, for which the provider ended it."""
    interrupted: bool = False
    """Whether the process was ended without a command: its host was shut down, or its lease expired."""
    timed_out: bool = False
    """Whether the provider ended the process after its `timeout_s`."""
    start_s: float | None = None
    """Seconds from the launch until the process was ready; None if it has not said so."""
    private_bytes: int | None = None
    """Memory that only the sandbox's processes use, at the last measurement; None if the provider measures none."""
    not_forked: str | None = None
    """Why the process was not started from a parent that has imported its modules, although it could be."""
    seconds: float = 0.0
    """Seconds from the start to the end of the process, or 0 while it runs."""


class LogPage(msgspec.Struct, frozen=True):
    """A piece of a process's output. Output before `next_offset` - len(`body`) may have been deleted."""

    body: bytes
    next_offset: int


class FoundSandbox(msgspec.Struct, frozen=True):
    """A sandbox of this deployment that exists at the provider."""

    sandbox_id: str
    created_at: datetime | None
    running: bool = True
    """Whether the sandbox itself runs, and not whether its worker runs."""
    usd_per_hour: Decimal | None = None
    """The price of the sandbox while it runs, if the provider knows it."""


@runtime_checkable
class WatchedProvider(Protocol):
    """A provider that watches the resources that its sandboxes share."""

    def problem(self) -> str | None:
        """Return why the provider makes no new sandboxes at present, or None."""
        ...


class PreloadingProvider(Protocol):
    """A provider with the capability `PRELOAD`."""

    async def preload(self, process: ProcessSpec) -> str | None:
        """Import the modules of processes like this one. Return the reason if such processes start without that."""
        ...


@runtime_checkable
class ExplainingProvider(Protocol):
    """A provider that knows why it isolates processes as it does."""

    async def health(self) -> Mapping[str, str]:
        """Return the present `isolation` of new processes, and the reason as `why`. Must not raise."""
        ...


class Provider(Protocol):
    """Makes sandboxes of one kind and runs processes in them.

    Methods raise `InvalidMessage` for a request that can never succeed, and another `Fault` for a request that may
    succeed later: `providers.errors` has the classes. A fault with `retry_after_s` names the time of the next try.
    """

    @property
    def name(self) -> str:
        """The provider's name, as stored in the records of its sandboxes."""
        ...

    @property
    def host(self) -> str:
        """The host on which the provider makes new sandboxes, as stored in their records."""
        ...

    @property
    def capabilities(self) -> frozenset[ProviderCapability]:
        """What the provider can do beyond the methods that every provider has."""
        ...

    def reaches(self, host: str) -> bool:
        """Whether this gateway can reach the sandboxes that were made on `host`."""
        ...

    async def isolation(self) -> str:
        """Return the name of the mechanism that isolates the provider's processes from their host."""
        ...

    def staging(self, sandbox_id: str) -> Path:
        """Return the directory on the gateway's host in which files for `provide` are prepared. `delete` removes it."""
        ...

    async def ensure(self, spec: SandboxSpec) -> SandboxLayout:
        """Make the sandbox if it does not exist, start it if it does not run, and return its paths and addresses."""
        ...

    async def layout(self, sandbox_id: str) -> SandboxLayout:
        """Return the paths and addresses of an existing sandbox. Raises `NotFound` if it does not exist."""
        ...

    async def get(self, sandbox_id: str) -> FoundSandbox | None:
        """Return the sandbox, or None if it does not exist."""
        ...

    async def existing(self) -> Sequence[FoundSandbox]:
        """Return all sandboxes of this deployment. A sandbox made a few seconds ago may be missing."""
        ...

    async def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox with all its processes and keep its files. Does nothing if the sandbox does not exist."""
        ...

    async def delete(self, sandbox_id: str) -> None:
        """Remove a sandbox with all its processes and files. Does nothing if the sandbox does not exist."""
        ...

    async def touch(self, sandbox_ids: Sequence[str]) -> None:
        """Say that these sandboxes are in use. The provider ends leased processes of sandboxes without this call."""
        ...

    async def provide(self, sandbox_id: str, name: str, source: Path) -> str:
        """Make a directory of the gateway's host readable in a sandbox. Return its path inside, for `ProcessSpec`."""
        ...

    async def put(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a file in a sandbox, completely or not at all. `path` lies below a directory of the layout."""
        ...

    def fetch(self, sandbox_id: str, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a file in a sandbox. Raises `NotFound` if there is no regular file at `path`."""
        ...

    async def discard(self, sandbox_id: str, path: str) -> None:
        """Remove a file in a sandbox. Does nothing if there is none."""
        ...

    async def launch(self, sandbox_id: str, process: ProcessSpec) -> ProcessState:
        """Start a process, unless a process with its key was started before. Return its state, also if it has ended."""
        ...

    async def poll(self, sandbox_id: str, key: str = WORKER) -> ProcessState | None:
        """Return the state of a process; None if the provider has no record of it."""
        ...

    async def poll_all(self) -> dict[str, ProcessState]:
        """Return the states of all workers that the provider knows, by sandbox id. They may be some seconds old."""
        ...

    async def wait(self, sandbox_id: str, key: str, *, deadline_s: float) -> ProcessState:
        """Wait for the end of a process. Raises `TimedOut` after `deadline_s` seconds."""
        ...

    async def logs(self, sandbox_id: str, key: str = WORKER, *, offset: int = 0, limit: int) -> LogPage:
        """Return output of a process from `offset` on. A negative `offset` counts from the end.

        Raises `NotFound` if there is no such process.
        """
        ...

    async def kill(self, sandbox_id: str, key: str = WORKER, *, grace_s: float = 0.0) -> ProcessState | None:
        """End a process and all processes that it started: SIGTERM, and SIGKILL `grace_s` seconds later.

        Returns None if there is no such process.
        """
        ...

    async def forget(self, sandbox_id: str, key: str) -> None:
        """Remove the record and output of an ended process. A process that still runs is killed first.

        Afterwards the key is unknown. Does nothing if there is no such process.
        """
        ...

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """Return the number of events that a worker has stored on its disk; None if it has stored no event file."""
        ...

    def exits(self) -> AsyncIterator[str]:
        """Yield the id of a sandbox each time that its worker ends. An id may be missing, so the caller also polls."""
        ...

    async def aclose(self) -> None:
        """Close the provider's connections. The sandboxes continue to run."""
        ...
