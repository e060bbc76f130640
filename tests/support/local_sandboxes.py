"""Creates the sandbox provider `local` for the host name `h`, without a gateway."""

from collections.abc import Sequence
from pathlib import Path

from muster.sandbox_gateway.providers.local.packages import Packages
from muster.sandbox_gateway.providers.local.repositories import AllowedRepositories
from muster.sandbox_gateway.providers.local.sandboxes import LocalSandboxes
from muster.shim.client import ShimClient

HOST = "h"


def local_sandboxes(
    shim: ShimClient,
    root: Path,
    *,
    gateway_socket: Path,
    repositories: AllowedRepositories | None = None,
    packages: Sequence[Path] = (),
) -> LocalSandboxes:
    """Return a provider that creates sandboxes below `root`; a file `gateway_socket` need not exist."""
    return LocalSandboxes(
        shim,
        root=root,
        repos=repositories or AllowedRepositories([], network="none"),
        packages=Packages(packages),
        network="none",
        gateway_url="http://gateway",
        gateway_socket=gateway_socket,
        lease_s=600.0,
        host=HOST,
    )
