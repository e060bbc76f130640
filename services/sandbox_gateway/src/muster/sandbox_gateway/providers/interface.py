"""The interface of a provider, which makes sandboxes and runs workers in them.

The gateway may call every method again after a crash. The gateway chooses the keys of sandboxes and processes, and a
provider returns the existing sandbox or process for a known key.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from muster.common.contracts.gateway import CreateSandbox, SandboxOutput
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import Handoff


class SandboxLayout(msgspec.Struct, frozen=True):
    """Paths inside a sandbox, as its worker sees them, and the addresses at which the worker reaches the gateway."""

    workspace: str
    state_dir: str
    gateway_url: str
    gateway_socket: str | None
    repo_url: str | None


class WorkerProcess(msgspec.Struct, frozen=True):
    """The state of a worker's process, as reported by the provider of its sandbox."""

    running: bool
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None
    isolation: str = "unknown"
    interrupted: bool = False
    """Whether the worker was ended without a command: its host was shut down, or its lease expired."""


class Provider(Protocol):
    """Makes sandboxes of one kind and runs the workers in them.

    Methods raise `InvalidMessage` for a request that can never succeed, and `Unavailable` for a request that may
    succeed later.
    """

    @property
    def name(self) -> str:
        """The provider's name, as stored in the records of its sandboxes."""
        ...

    @property
    def host(self) -> str:
        """The host on which the provider makes new sandboxes, as stored in their records."""
        ...

    def reaches(self, host: str) -> bool:
        """Whether this gateway can reach the sandboxes that were made on `host`."""
        ...

    async def isolation(self) -> str:
        """Return the name of the mechanism that isolates the provider's workers from their host."""
        ...

    def check(self, package: str, repo: Repo | None) -> None:
        """Raise `InvalidMessage` if a sandbox with this package and repository can never start. May read the disk."""
        ...

    async def ensure(self, create: CreateSandbox) -> SandboxLayout:
        """Make the sandbox if it does not exist, and return its paths and addresses."""
        ...

    async def launch(self, create: CreateSandbox, handoff: Handoff) -> WorkerProcess:
        """Start the worker of a sandbox, unless it was started before.

        Return the state of the worker's process, also if the process has ended already.
        """
        ...

    async def poll(self, sandbox_id: str) -> WorkerProcess | None:
        """Return the state of a sandbox's worker; None if the provider has no record of a worker."""
        ...

    async def poll_all(self) -> dict[str, WorkerProcess]:
        """Return the states of all workers of this provider, by sandbox id."""
        ...

    async def logs(self, sandbox_id: str, limit: int) -> bytes:
        """Return the last `limit` bytes of the worker's output. Raises `NotFound` if there is no worker."""
        ...

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """Return the number of events that the worker has stored on disk; None if it has stored no event file."""
        ...

    async def run(self, create: CreateSandbox, key: str, command: str, timeout_s: float) -> SandboxOutput:
        """Run a shell command in a sandbox's workspace, with the worker's isolation, and return its output.

        A second call with the same key runs nothing and returns the output of the first call.
        """
        ...

    async def stop(self, sandbox_id: str, grace_s: float) -> WorkerProcess | None:
        """End a sandbox's worker and all processes that the worker started. Returns None if there is no worker."""
        ...

    async def delete(self, sandbox_id: str) -> None:
        """Remove a sandbox with all its processes and files. Does nothing if the sandbox does not exist."""
        ...

    async def renew(self, sandbox_ids: Sequence[str]) -> None:
        """Renew the leases of the workers of these sandboxes. The provider ends a worker when its lease expires."""
        ...

    def exits(self) -> AsyncIterator[str]:
        """Yield the id of a sandbox each time that its worker ends. An id may be missing, so the caller also polls."""
        ...
