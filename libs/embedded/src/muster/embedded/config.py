"""The configuration of a stack, the set of servers and programs that `muster up` runs on one machine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from muster.common.configuration_file import configured_as
from muster.common.tls import TlsFiles
from muster.embedded.programs import SERVICES, SHIM, Program
from muster.shim.protocol import IsolationChoice

_GATEWAY, _LOCAL = "sandbox_gateway", "local"


def default_data_dir() -> Path:
    """Return the platform's directory for Muster's user data, on Linux `~/.local/share/muster`."""
    return platformdirs.user_data_path("muster")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The TCP ports of the servers in the stack. Port 0 means any free port."""

    api: int = 8700
    gateway: int = 8710
    nats: int = 4222
    postgres: int = 5433


FREE_PORTS = Ports(api=0, gateway=0, nats=0, postgres=0)


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """The limit on restarts: the stack fails when one part dies `most` times within `within_s` seconds."""

    most: int = 5
    within_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The configuration of one `Stack`."""

    data_dir: Path | None = None
    """The data directory. None means the platform's default, or with `ephemeral` a temporary directory."""
    ephemeral: bool = False
    """Whether to use free ports instead of the default ports."""
    remove_data: bool = False
    """Whether the directory `data_dir` is deleted when the stack stops."""
    ports: Ports | None = None
    """The ports to use; None means the default ports, or free ports with `ephemeral`."""
    ready_file: Path | None = None
    """Path of a second copy of `ready.json`."""
    scripts_dirs: tuple[Path, ...] = ()
    """Directories that contain scripts for the gateway's scripted model."""
    repo_roots: tuple[Path, ...] = ()
    """Directories below which the `file://` repositories of tasks may be."""
    nats_url: str = ""
    """URL of an existing NATS server; empty means that the stack starts a NATS server."""
    nats_credentials: Path | None = None
    """File with the credentials that `muster up` uses on an existing NATS server."""
    nats_tls: TlsFiles | None = None
    """TLS files for the connection to an existing NATS server."""
    database_url: str = ""
    """URL of an existing PostgreSQL database; empty means that the stack starts a PostgreSQL server."""
    user_env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The user's environment variables. Each part gets only the variables that the module `environment` selects."""
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """Additional environment variables of parts, by the name of the part."""
    python: str = sys.executable
    """The Python interpreter that runs the programs."""
    services: tuple[Program, ...] = SERVICES
    shim: Program | None = SHIM
    isolation: IsolationChoice = "auto"
    """The isolation level of agents, or `auto` for the strongest one that works and that `user_env` permits."""
    provider_isolation: Mapping[str, str] = field(default_factory=dict[str, str])
    """What isolates the sandboxes of a provider, by the provider's name, if it is neither the shim nor the provider."""
    restarts: Restarts = Restarts()
    grace_s: float = 10.0
    """Seconds that a service has to stop after SIGTERM."""

    @property
    def listens(self) -> Ports:
        """The TCP ports of the stack's servers: the configured ports, or else the default ports."""
        return self.ports or (FREE_PORTS if self.ephemeral else Ports())

    def isolation_of_providers(self, level: str) -> dict[str, str]:
        """Return what isolates the sandboxes of each provider of the gateway, by name; the default provider is first.

        Sandboxes of the provider `local` have the shim's `level`. Another provider isolates its sandboxes itself, and
        its name stands for that, unless `provider_isolation` says otherwise. Raises `ConfigurationError`.
        """
        named = (
            self.env.get(_GATEWAY, {}).get("MUSTER_PROVIDERS")
            or self.user_env.get("MUSTER_PROVIDERS")
            or configured_as(_GATEWAY, "providers", self.user_env)
        )
        names = [name for entry in named.split(",") if (name := entry.strip())] or [_LOCAL]
        return {name: self.provider_isolation.get(name, level if name == _LOCAL else name) for name in names}
