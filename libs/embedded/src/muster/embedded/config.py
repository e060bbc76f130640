"""What a stack is to be: where, on which ports, with which programs."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from muster.common.tls import TlsFiles
from muster.embedded.programs import SERVICES, SHIM, Program
from muster.shim.protocol import IsolationChoice


def default_data_dir() -> Path:
    """`~/.local/share/muster`, or what the platform says."""
    return platformdirs.user_data_path("muster")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Port 0 takes a free one."""

    api: int = 8700
    gateway: int = 8710
    nats: int = 4222
    postgres: int = 5433


FREE_PORTS = Ports(api=0, gateway=0, nats=0, postgres=0)


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """So many deaths of one part within so many seconds are too many."""

    most: int = 5
    within_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Everything `Stack` needs to know."""

    data_dir: Path | None = None
    """None: the platform's place, or with `ephemeral` a temporary directory that is removed at the end."""
    ephemeral: bool = False
    """Free ports instead of the default ones."""
    remove_data: bool = False
    """`data_dir` is removed at the end too."""
    ports: Ports | None = None
    ready_file: Path | None = None
    """A second copy of `ready.json`."""
    scripts_dirs: tuple[Path, ...] = ()
    """Where the gateway's scripted model finds its scripts."""
    repo_roots: tuple[Path, ...] = ()
    """Below these, tasks may name `file://` repositories."""
    nats_url: str = ""
    """Use this server instead of starting one."""
    nats_credentials: Path | None = None
    """Ours on that server."""
    nats_tls: TlsFiles | None = None
    """How its TLS is checked."""
    database_url: str = ""
    """Use this server instead of starting one."""
    user_env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The user's environment, of which each part gets only what `environment` allows."""
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """More variables for a part, by its name."""
    python: str = sys.executable
    services: tuple[Program, ...] = SERVICES
    shim: Program | None = SHIM
    isolation: IsolationChoice = "auto"
    """How the shim isolates agents; without isolation (`plain`) only on request."""
    restarts: Restarts = Restarts()
    grace_s: float = 10.0
    """How long a service told to stop may take."""

    @property
    def listens(self) -> Ports:
        """The ports asked for."""
        return self.ports or (FREE_PORTS if self.ephemeral else Ports())
