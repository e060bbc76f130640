"""What every place where workers run offers. Keys are ours, so that every call may be repeated without harm."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from muster.common.contracts.doors import Handoff
from muster.common.contracts.gateway import CreateSandbox, SandboxOutput
from muster.common.contracts.task_spec import Repo


class SandboxLayout(msgspec.Struct, frozen=True):
    """Where a sandbox's worker finds things, as it sees them, and how it reaches the gateway."""

    workspace: str
    state_dir: str
    gateway_url: str
    gateway_socket: str | None
    repo_url: str | None


class WorkerProcess(msgspec.Struct, frozen=True):
    """The worker as its provider has it."""

    running: bool
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None
    isolation: str = "unknown"
    interrupted: bool = False
    """Ended by its host of the host's own accord: it was shut down, or nobody kept the worker's lease."""


class Provider(Protocol):
    """Makes sandboxes of one kind. Raises `InvalidMessage` if it can never work, `Unavailable` if it may later."""

    @property
    def name(self) -> str:
        """As records and views name it."""
        ...

    @property
    def host(self) -> str:
        """The host that new sandboxes are made on; stored in their records."""
        ...

    def reaches(self, host: str) -> bool:
        """Whether this gateway can reach sandboxes that were made on `host`."""
        ...

    async def isolation(self) -> str:
        """What keeps its workers from their host."""
        ...

    def check(self, package: str, repo: Repo | None) -> None:
        """Raise `InvalidMessage` naming the field if this can never be started here. Reads the disk."""
        ...

    async def ensure(self, create: CreateSandbox) -> SandboxLayout:
        """Make the place, or find it."""
        ...

    async def launch(self, create: CreateSandbox, handoff: Handoff) -> WorkerProcess:
        """Start the worker; if it was started before, however it ended, that one."""
        ...

    async def poll(self, sandbox_id: str) -> WorkerProcess | None:
        """The worker, or None if there never was one or nobody remembers it."""
        ...

    async def polls(self) -> dict[str, WorkerProcess]:
        """All workers at once, by sandbox."""
        ...

    async def logs(self, sandbox_id: str, limit: int) -> bytes:
        """The end of the worker's output. Raises `NotFound`."""
        ...

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """How many events the worker has on its disk; None if that cannot be told."""
        ...

    async def run(self, create: CreateSandbox, key: str, command: str, timeout_s: float) -> SandboxOutput:
        """A shell command in the workspace, behind the same walls. The same key is the same process."""
        ...

    async def stop(self, sandbox_id: str, grace_s: float) -> WorkerProcess | None:
        """End the worker and all it started; gone is fine."""
        ...

    async def delete(self, sandbox_id: str) -> None:
        """Remove everything of it; gone is fine."""
        ...

    async def renew(self, sandbox_ids: Sequence[str]) -> None:
        """Say that these are still wanted; who is not named ends with its lease."""
        ...

    def exits(self) -> AsyncIterator[str]:
        """The ids of sandboxes whose worker ended: a hint, polling is what counts."""
        ...
