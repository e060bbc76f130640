"""What the environment tells this service."""

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from muster.common.settings import AuthoritySettings, DatabaseSettings, Days, MigrationSettings

NAME = "agent_manager"
"""Of the service, on the bus and in logs."""


class ManagerSettings(AuthoritySettings, DatabaseSettings):
    """Each is a variable `MUSTER_<NAME>`."""

    section: ClassVar[str] = "agent_manager"

    packages: str = ""
    """Agent packages that may be used. Empty: all that are found."""
    packages_dirs: str = ""
    """Folders with packages of one's own, beside the installed ones; separated as in PATH."""
    discovery_every_s: float = Field(30.0, gt=0)
    """How often packages are looked for though no file changed."""
    default_package: str = "openhands"
    """The package of a task that names none."""
    default_model: str = ""
    """For tasks that name none. Empty: such a task is refused, unless its package needs no model."""
    max_pending: int = Field(1_000, ge=1)
    """Tasks that wait; one more is refused."""
    max_running: int = Field(16, ge=1)
    """Attempts that live at the same time."""
    max_attempts: int = Field(3, ge=1)
    """Of a task, replacements included."""
    ageing_s: float = Field(300.0, gt=0)
    """After each such wait a task counts as one priority higher."""
    timeout_grace_s: float = Field(15.0, ge=0)
    """What a worker gets beyond its task's timeout to report by itself."""
    opened_within_s: float = Field(60.0, gt=0)
    """A sandbox whose log has not begun after this is replaced."""
    validation_timeout_s: float = Field(120.0, gt=0, le=500)
    """For a task's test command."""
    stop_grace_s: float = Field(5.0, ge=0)
    """Between asking a worker to stop and killing it, where its package does not say."""
    reap_every_s: float = Field(30.0, gt=0)
    """How often sandboxes without a live attempt are looked for."""
    recheck_s: float = Field(5.0, gt=0)
    """How often each loop looks again though nothing woke it."""
    shim_socket: Path | None = None
    """Where local processes are started. Without it agents in process mode cannot run here."""
    data_dir: Path = Path("~/.local/share/muster")
    """The directories of agents in process mode are below it, in `agents`."""
    lease_ttl_s: float = Field(10.0, gt=0)
    """After this long without a sign of life this manager's agents are another's."""
    lease_every_s: float = Field(3.0, gt=0)
    """How often that lease is renewed."""
    audit_every_s: float = Field(15.0, gt=0)
    """How often what is stored is compared with what the shim has; the leases of processes are renewed as often."""
    credentials_ttl_s: float = Field(3600.0, gt=0)
    """An agent's credentials are good for so long, and renewed at half of it."""
    beat_running_s: float = Field(5.0, gt=0)
    beat_idle_s: float = Field(10.0, gt=0)
    beat_ttl_running_s: float = Field(15.0, gt=0)
    """A running agent silent for this long is unresponsive: three beat intervals."""
    beat_ttl_idle_s: float = Field(30.0, gt=0)
    """The same of an idle one."""
    inactive_after_s: float = Field(60.0, gt=0)
    """An agent that has said nothing for so long is `inactive`."""

    tasks_kept_days: Days = 400
    """Tasks with their attempts and replacements, from a task's end on; their events 7 days longer."""
    agents_kept_days: Days = 90
    """Events of agents, and launches that have ended."""
    agent_logs_kept_days: Days = 7
    """Output of agents in process mode."""
    commands_kept_days: Days = 30
    """Which commands were obeyed: the same `command_id` within this time changes nothing."""
    retention_every_s: float = Field(3600.0, gt=0)
    """How often rows that are too old are looked for."""

    @property
    def allowed_packages(self) -> tuple[str, ...]:
        """`packages`, split; none means all."""
        return tuple(name.strip() for name in self.packages.split(",") if name.strip())

    @property
    def package_roots(self) -> tuple[Path, ...]:
        """`packages_dirs`, split."""
        return tuple(Path(place).expanduser() for place in self.packages_dirs.split(os.pathsep) if place)


class ManagerMigration(MigrationSettings):
    """What `migrate` needs of them."""

    section: ClassVar[str] = ManagerSettings.section
