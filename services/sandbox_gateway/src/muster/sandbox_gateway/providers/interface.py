"""The interface of a provider, which makes sandboxes and runs workers in them.

Every method may be called again after a crash: sandboxes and processes have keys that the gateway chooses, and a
provider returns the existing one for a known key.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from muster.common.contracts.doors import Handoff
from muster.common.contracts.gateway import CreateSandbox, SandboxOutput
from muster.common.contracts.task_spec import Repo


class SandboxLayout(msgspec.Struct, frozen=True):
    """Paths inside a sandbox, as its worker sees them, and the addresses at which it reaches the gateway."""

    workspace: str
    state_dir: str
    gateway_url: str
    gateway_socket: str | None
    repo_url: str | None


class WorkerProcess(msgspec.Struct, frozen=True):
    """The state of a worker's process, as its provider reports it."""

    running: bool
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None
    isolation: str = "unknown"
    interrupted: bool = False
    """Whether the host ended the worker without a command: it was shut down, or the lease expired."""


class Provider(Protocol):
    """Makes sandboxes of one kind.

    Methods raise `InvalidMessage` for a request that can never succeed, and `Unavailable` for one that may later.
    """

    @property
    def name(self) -> str:
        """The provider's name, as it stands in records and views."""
        ...

    @property
    def host(self) -> str:
        """The host that new sandboxes are made on; stored in their records."""
        ...

    def reaches(self, host: str) -> bool:
        """Whether this gateway can reach sandboxes that were made on `host`."""
        ...

    async def isolation(self) -> str:
        """Return the name of the isolation between its workers and their host."""
        ...

    def check(self, package: str, repo: Repo | None) -> None:
        """Raise `InvalidMessage` if a sandbox with this package and repository can never start here. Reads the disk."""
        ...

    async def ensure(self, create: CreateSandbox) -> SandboxLayout:
        """Make the sandbox if it does not exist, and return its layout."""
        ...

    async def launch(self, create: CreateSandbox, handoff: Handoff) -> WorkerProcess:
        """Start the worker. If it was started before, return that process, even if it has ended."""
        ...

    async def poll(self, sandbox_id: str) -> WorkerProcess | None:
        """Return the worker; None if the provider has no record of one."""
        ...

    async def poll_all(self) -> dict[str, WorkerProcess]:
        """Return all workers, by sandbox id."""
        ...

    async def logs(self, sandbox_id: str, limit: int) -> bytes:
        """Return the last `limit` bytes of the worker's output. Raises `NotFound`."""
        ...

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """Return the number of events that the worker has stored on its disk; None if there is no such record."""
        ...

    async def run(self, create: CreateSandbox, key: str, command: str, timeout_s: float) -> SandboxOutput:
        """Run a shell command in the workspace, with the worker's isolation. The same key returns the same run."""
        ...

    async def stop(self, sandbox_id: str, grace_s: float) -> WorkerProcess | None:
        """End the worker and all processes that it started. Returns None if there is no worker."""
        ...

    async def delete(self, sandbox_id: str) -> None:
        """Remove the sandbox with all its processes and files. Does nothing if it does not exist."""
        ...

    async def renew(self, sandbox_ids: Sequence[str]) -> None:
        """Renew the leases of these workers. A worker whose lease is not renewed is ended when it expires."""
        ...

    def exits(self) -> AsyncIterator[str]:
        """Iterate over the ids of sandboxes whose worker ended. Some may be missing: the caller polls too."""
        ...
