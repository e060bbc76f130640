"""The settings of the agent manager, read from environment variables."""

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from muster.common.settings import AuthoritySettings, DatabaseSettings, Days, IsolationSettings, MigrationSettings

NAME = "agent_manager"
"""The name of the service on NATS and in logs."""


class ManagerSettings(AuthoritySettings, DatabaseSettings, IsolationSettings):
    """The settings of the agent manager; each is read from the environment variable `MUSTER_<NAME>`."""

    section: ClassVar[str] = "agent_manager"

    packages: str = ""
    """Names of the agent packages that may be used, separated by commas. If empty, all packages may be used."""
    packages_dirs: str = ""
    """Folders with agent packages in addition to the installed ones, separated as in PATH."""
    discovery_every_s: float = Field(30.0, gt=0)
    """Seconds between two searches for agent packages if no file changes."""
    default_package: str = "openhands"
    """Package that the manager uses for a task that names no package."""
    default_model: str = ""
    """Model of a task that names no model. If empty, a task needs a model or a package without model calls."""
    default_timeout_s: float = Field(1_800.0, ge=1, le=86_400)
    """Seconds that one attempt may take if the task's package calls a model, and neither sets `timeout_s`."""
    max_pending: int = Field(1_000, ge=1)
    """Maximum number of waiting tasks. Further tasks are refused."""
    max_running: int = Field(16, ge=1)
    """Maximum number of attempts that run at the same time."""
    max_attempts: int = Field(3, ge=1)
    """Maximum number of attempts of one task, including replacements."""
    ageing_s: float = Field(300.0, gt=0)
    """Seconds of waiting that raise the priority of a task by one."""
    timeout_grace_s: float = Field(15.0, ge=0)
    """Seconds after the timeout of a task in which the worker may still report its result."""
    opened_within_s: float = Field(60.0, gt=0)
    """Seconds after which an attempt is replaced if its sandbox log has not begun."""
    validation_timeout_s: float = Field(120.0, gt=0, le=500)
    """Maximum time of a task's test command in seconds."""
    stop_grace_s: float = Field(5.0, ge=0)
    """Seconds between TERM and KILL of a worker, unless the worker's package sets another time."""
    reap_every_s: float = Field(30.0, gt=0)
    """Seconds between two searches for sandboxes without a live attempt."""
    recheck_s: float = Field(5.0, gt=0)
    """Seconds after which each reconcile loop reads the tables again if no notification arrives."""
    shim_socket: Path | None = None
    """Socket of the shim that starts processes on this host. Without a shim, agents in process mode cannot run here."""
    data_dir: Path = Path("~/.local/share/muster")
    """Data directory, whose folder `agents` contains the directories of agents in process mode."""
    lease_ttl_s: float = Field(10.0, gt=0)
    """Seconds without a renewal after which a manager's lease expires and other managers take over its agents."""
    lease_every_s: float = Field(3.0, gt=0)
    """Seconds between two renewals of a manager's lease."""
    audit_every_s: float = Field(15.0, gt=0)
    """Seconds between two comparisons of the tables with the shim's processes, and between two renewals of leases."""
    credentials_ttl_s: float = Field(3600.0, gt=0)
    """Lifetime of an agent's NATS credentials in seconds. The manager renews credentials after half their lifetime."""
    beat_running_s: float = Field(5.0, gt=0)
    beat_idle_s: float = Field(10.0, gt=0)
    beat_ttl_running_s: float = Field(15.0, gt=0)
    """Seconds of silence after which a running agent is unresponsive (three heartbeat intervals)."""
    beat_ttl_idle_s: float = Field(30.0, gt=0)
    """Seconds of silence after which an idle agent is unresponsive (three heartbeat intervals)."""
    inactive_after_s: float = Field(60.0, gt=0)
    """Seconds of silence after which an agent is `inactive`."""

    tasks_kept_days: Days = 400
    """Days for which ended tasks, attempts and replacements are kept. The events of tasks are kept 7 days longer."""
    agents_kept_days: Days = 90
    """Days for which the events of agents and their ended launches are kept."""
    agent_logs_kept_days: Days = 7
    """Days for which the output of agents in process mode is kept."""
    commands_kept_days: Days = 30
    """Days for which ids of commands are kept. A repeated `command_id` within this time changes nothing."""
    retention_every_s: float = Field(3600.0, gt=0)
    """Seconds between two searches for rows that are old enough to be deleted."""

    @property
    def allowed_packages(self) -> tuple[str, ...]:
        """Return the package names in the setting `packages` as a tuple; an empty tuple allows all packages."""
        return tuple(name.strip() for name in self.packages.split(",") if name.strip())

    @property
    def agents_root(self) -> Path:
        """Return the folder with the directories of agents in process mode."""
        return self.data_dir.expanduser().absolute() / "agents"

    @property
    def package_roots(self) -> tuple[Path, ...]:
        """Return the folders in the setting `packages_dirs` as a tuple of paths."""
        return tuple(Path(place).expanduser() for place in self.packages_dirs.split(os.pathsep) if place)


class ManagerMigration(MigrationSettings):
    """The settings that the command `migrate` of the agent manager needs."""

    section: ClassVar[str] = ManagerSettings.section
