"""Creates the sandbox provider `local` for the host name `h`, and starts workers with it, without a gateway."""

from collections.abc import Callable, Sequence
from pathlib import Path

from muster.common.contracts.gateway import CreateSandbox, SandboxOutput
from muster.common.contracts.worker_api import Handoff
from muster.common.isolation_levels import IsolationLevel
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy
from muster.sandbox_gateway.providers.interface import ProcessState, SandboxLayout
from muster.sandbox_gateway.providers.local.sandboxes import LocalSandboxes
from muster.sandbox_gateway.providers.packages import Packages
from muster.sandbox_gateway.providers.worker_code import WorkerCode
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.copies import RepositoryCopies
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.shim.client import ShimClient
from tests.support.git_server import host_rules

HOST = "h"
POLICY = NetworkPolicy("none", "", "")


def local_sandboxes(
    shim: ShimClient,
    root: Path,
    *,
    gateway_socket: Path,
    at_least: IsolationLevel = "plain",
    problem: Callable[[], str | None] = lambda: None,
) -> LocalSandboxes:
    """Return a provider that creates sandboxes below `root`; a file `gateway_socket` need not exist."""
    return LocalSandboxes(
        shim,
        root=root,
        network="none",
        gateway_url="http://gateway",
        gateway_socket=gateway_socket,
        lease_s=600.0,
        host=HOST,
        at_least=at_least,
        problem=problem,
    )


class LocalWorkers:
    """Workers and commands in the sandboxes of a provider `local`."""

    def __init__(
        self,
        provider: LocalSandboxes,
        root: Path,
        *,
        repositories: AllowedRepositories | None = None,
        packages: Sequence[Path] = (),
    ) -> None:
        self.provider = provider
        copies = RepositoryCopies(repositories or AllowedRepositories([], host_rules(root)))
        self.workers = SandboxWorkers(Packages(packages), copies, WorkerCode(root / "code"), POLICY)

    async def prepare(self, create: CreateSandbox) -> tuple[SandboxLayout, str | None]:
        """Make a sandbox; return its layout and the URL of its repository."""
        prepared = await self.workers.prepare(self.provider, create)
        return prepared.layout, prepared.repo_url

    async def run(self, create: CreateSandbox, key: str, command: str, timeout_s: float) -> SandboxOutput:
        """Run a command in a sandbox that `prepare` has made."""
        return await self.workers.run(self.provider, create, key, command, timeout_s, token="")

    async def start(self, create: CreateSandbox, handoff: Handoff) -> ProcessState:
        """Start the worker of a sandbox with this handoff."""
        prepared = await self.workers.prepare(self.provider, create)
        return await self.workers.start(self.provider, create, prepared, lambda layout, url: handoff)
