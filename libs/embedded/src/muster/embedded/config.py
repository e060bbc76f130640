"""The configuration of a stack: its directory, ports, programs and servers."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from muster.common.tls import TlsFiles
from muster.embedded.programs import SERVICES, SHIM, Program
from muster.shim.protocol import IsolationChoice


def default_data_dir() -> Path:
    """Return the platform's directory for user data, on Linux `~/.local/share/muster`."""
    return platformdirs.user_data_path("muster")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The TCP ports of the stack. Port 0 means any free port."""

    api: int = 8700
    gateway: int = 8710
    nats: int = 4222
    postgres: int = 5433


FREE_PORTS = Ports(api=0, gateway=0, nats=0, postgres=0)


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """The stack fails when one part dies `most` times within `within_s` seconds."""

    most: int = 5
    within_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The configuration of one `Stack`."""

    data_dir: Path | None = None
    """The data directory. None means the platform's, or with `ephemeral` a temporary one that is removed at the end."""
    ephemeral: bool = False
    """Whether to use free ports instead of the default ones."""
    remove_data: bool = False
    """Whether `data_dir` is removed at the end."""
    ports: Ports | None = None
    """The ports to use; None means the default ones, or free ones with `ephemeral`."""
    ready_file: Path | None = None
    """Path of a second copy of `ready.json`."""
    scripts_dirs: tuple[Path, ...] = ()
    """Directories with the scripts of the gateway's scripted model."""
    repo_roots: tuple[Path, ...] = ()
    """Directories below which the `file://` repositories of tasks may be."""
    nats_url: str = ""
    """URL of a NATS server to use instead of starting one."""
    nats_credentials: Path | None = None
    """Credentials file of `muster up` itself on that server."""
    nats_tls: TlsFiles | None = None
    """TLS files for the connection to that server."""
    database_url: str = ""
    """URL of a PostgreSQL database to use instead of starting a server."""
    user_env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The user's environment variables. Each part gets only those that the module `environment` selects."""
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """Additional variables of a part, by its name."""
    python: str = sys.executable
    """The interpreter that runs the programs."""
    services: tuple[Program, ...] = SERVICES
    shim: Program | None = SHIM
    isolation: IsolationChoice = "auto"
    """How the shim isolates agents; `plain` means no isolation."""
    restarts: Restarts = Restarts()
    grace_s: float = 10.0
    """Seconds that a service has to end after SIGTERM."""

    @property
    def listens(self) -> Ports:
        """The configured ports, or the default ones."""
        return self.ports or (FREE_PORTS if self.ephemeral else Ports())
