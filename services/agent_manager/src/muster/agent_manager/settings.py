"""The settings of the agent manager."""

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from muster.common.settings import AuthoritySettings, DatabaseSettings, Days, MigrationSettings

NAME = "agent_manager"
"""Of the service, on the bus and in logs."""


class ManagerSettings(AuthoritySettings, DatabaseSettings):
    """Each setting is the environment variable `MUSTER_<NAME>`."""

    section: ClassVar[str] = "agent_manager"

    packages: str = ""
    """Agent packages that may be used, separated by commas. Empty: all that are found."""
    packages_dirs: str = ""
    """Folders with the user's own packages, beside the installed ones; separated as in PATH."""
    discovery_every_s: float = Field(30.0, gt=0)
    """Seconds between looks for packages when no file changes."""
    default_package: str = "openhands"
    """The package of a task that names none."""
    default_model: str = ""
    """The model of a task that names none. Empty: such a task is refused, unless its package needs no model."""
    max_pending: int = Field(1_000, ge=1)
    """How many tasks may wait; one more is refused."""
    max_running: int = Field(16, ge=1)
    """How many attempts may run at the same time."""
    max_attempts: int = Field(3, ge=1)
    """Attempts of one task, replacements included."""
    ageing_s: float = Field(300.0, gt=0)
    """Seconds of waiting after which a task counts as one priority higher."""
    timeout_grace_s: float = Field(15.0, ge=0)
    """Seconds beyond the timeout of a task in which the worker may still report its result."""
    opened_within_s: float = Field(60.0, gt=0)
    """Seconds. An attempt whose sandbox log has not begun by then is replaced."""
    validation_timeout_s: float = Field(120.0, gt=0, le=500)
    """Seconds for the test command of a task."""
    stop_grace_s: float = Field(5.0, ge=0)
    """Seconds between TERM and KILL of a worker, unless its package sets another grace."""
    reap_every_s: float = Field(30.0, gt=0)
    """Seconds between looks for sandboxes without a live attempt."""
    recheck_s: float = Field(5.0, gt=0)
    """Seconds between looks of each loop when nothing wakes it."""
    shim_socket: Path | None = None
    """The socket of the shim that starts processes on this host. Without it agents in process mode cannot run here."""
    data_dir: Path = Path("~/.local/share/muster")
    """The data directory; its folder `agents` holds the directories of agents in process mode."""
    lease_ttl_s: float = Field(10.0, gt=0)
    """Seconds without a renewal after which other managers take this manager's agents."""
    lease_every_s: float = Field(3.0, gt=0)
    """Seconds between renewals of this manager's lease."""
    audit_every_s: float = Field(15.0, gt=0)
    """Seconds between comparisons of the tables with the shim; the leases of processes are renewed as often."""
    credentials_ttl_s: float = Field(3600.0, gt=0)
    """Seconds for which an agent's credentials are valid; they are renewed at half of it."""
    beat_running_s: float = Field(5.0, gt=0)
    beat_idle_s: float = Field(10.0, gt=0)
    beat_ttl_running_s: float = Field(15.0, gt=0)
    """Seconds. A running agent that is silent for longer is unresponsive: three heartbeat intervals."""
    beat_ttl_idle_s: float = Field(30.0, gt=0)
    """Seconds. An idle agent that is silent for longer is unresponsive: three heartbeat intervals."""
    inactive_after_s: float = Field(60.0, gt=0)
    """Seconds. An agent that is silent for longer is `inactive`."""

    tasks_kept_days: Days = 400
    """Days from the end of a task for which it is kept, with attempts and replacements; its events 7 days longer."""
    agents_kept_days: Days = 90
    """Days for which events of agents and ended launches are kept."""
    agent_logs_kept_days: Days = 7
    """Days for which output of agents in process mode is kept."""
    commands_kept_days: Days = 30
    """Days for which ids of commands are kept: a repeated `command_id` within this time changes nothing."""
    retention_every_s: float = Field(3600.0, gt=0)
    """Seconds between looks for old rows."""

    @property
    def allowed_packages(self) -> tuple[str, ...]:
        """`packages`, split; empty means all."""
        return tuple(name.strip() for name in self.packages.split(",") if name.strip())

    @property
    def package_roots(self) -> tuple[Path, ...]:
        """`packages_dirs`, split."""
        return tuple(Path(place).expanduser() for place in self.packages_dirs.split(os.pathsep) if place)


class ManagerMigration(MigrationSettings):
    """The settings that `migrate` needs."""

    section: ClassVar[str] = ManagerSettings.section
