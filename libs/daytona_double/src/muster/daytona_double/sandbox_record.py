"""One sandbox: what the API shows of it, its directories, its processes, and the change of state it is in.

States, and the words of the API for the changes between them (each takes `Timing.change_s` seconds):

    create from a snapshot: creating ─► started      create from an image: building_snapshot ─► started
    stop:    started ─► stopping ─► stopped          start:   stopped ─► starting ─► started
    archive: stopped ─► archiving ─► archived        start:   archived ─► restoring ─► started
    pause:   started ─► pausing ─► paused            start:   paused ─► resuming ─► started
    delete:  any state at rest ─► destroying ─► gone (404)
    error ─► recover ─► starting ─► started
"""

import asyncio
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from daytona_api_client import Sandbox, SandboxDesiredState, SandboxListItem, SandboxState, SandboxVolume
from daytona_api_client.models.build_info import BuildInfo

from muster.daytona_double.clock import rfc3339
from muster.daytona_double.processes import kill_marked
from muster.daytona_double.session_shell import SessionShell

ORGANIZATION = "org-double"
LISTED_WITHOUT = {
    "env",
    "kvm",
    "volumes",
    "build_info",
    "backup_created_at",
    "outbound_proxy_url",
    "otel_endpoint_override",
    "linked_sandbox_id",
}
"""Fields of a sandbox that the items of a list do not have."""
AT_REST = {
    SandboxState.STARTED: SandboxDesiredState.STARTED,
    SandboxState.STOPPED: SandboxDesiredState.STOPPED,
    SandboxState.ARCHIVED: SandboxDesiredState.ARCHIVED,
    SandboxState.PAUSED: SandboxDesiredState.PAUSED,
    SandboxState.DESTROYED: SandboxDesiredState.DESTROYED,
}


@dataclass
class Change:
    """A change of state under way: the state at its end, and the time of the event loop at which it ends."""

    to: SandboxState
    due_s: float


@dataclass
class SandboxSettings:
    """What the creator of a sandbox chose."""

    name: str
    snapshot: str | None
    user: str
    env: dict[str, str]
    labels: dict[str, str]
    public: bool
    target: str
    cpu: int
    gpu: int
    memory: int
    disk: int
    auto_stop_interval: int
    auto_pause_interval: int
    auto_archive_interval: int
    auto_delete_interval: int
    ttl_minutes: int
    network_block_all: bool
    network_allow_list: str | None
    domain_allow_list: str | None
    volumes: list[SandboxVolume]
    build_info: BuildInfo | None


@dataclass
class DoubleSandbox:
    """A sandbox and its processes."""

    id: str
    number: int
    """Grows with each sandbox: the order of lists."""
    settings: SandboxSettings
    directory: Path
    created_at: datetime
    state: SandboxState = SandboxState.CREATING
    desired: SandboxDesiredState = SandboxDesiredState.STARTED
    change: Change | None = None
    error_reason: str | None = None
    recoverable: bool | None = None
    stopped_at: datetime | None = None
    updated_at: datetime = field(init=False)
    last_activity_at: datetime = field(init=False)
    sessions: dict[str, SessionShell] = field(default_factory=dict[str, SessionShell])
    previews: dict[str, int] = field(default_factory=dict[str, int])
    """The port of each token of a signed preview URL."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set while no change of state is under way."""

    def __post_init__(self) -> None:
        self.updated_at = self.last_activity_at = self.created_at

    @property
    def names(self) -> tuple[str, str]:
        """The id and the name, by both of which the API finds a sandbox."""
        return self.id, self.settings.name

    @property
    def home(self) -> Path:
        """The home directory of the sandbox's user."""
        return self.directory / "home"

    @property
    def workdir(self) -> Path:
        """The working directory; not the home directory, so that code which assumes so fails here."""
        return self.directory / "workspace"

    @property
    def temporary(self) -> Path:
        """The directory for temporary files, in `TMPDIR`."""
        return self.directory / "tmp"

    @property
    def destroy_at(self) -> datetime | None:
        """When the time to live ends, if the sandbox has one."""
        ttl = self.settings.ttl_minutes
        return self.created_at + timedelta(minutes=ttl) if ttl else None

    def make_directories(self, *, like: Path | None = None) -> None:
        """Create the directories, as copies of those below `like` if it is given."""
        self.directory.mkdir(parents=True)
        for place in (self.home, self.workdir):
            if like:
                shutil.copytree(like / place.name, place, symlinks=True)
            else:
                place.mkdir()
        self.temporary.mkdir()

    def end_processes(self, mark: str) -> None:
        """Kill all processes of the sandbox and forget its sessions."""
        kill_marked(mark)
        self.sessions.clear()

    def remove(self, mark: str) -> None:
        """Kill all processes and delete all files."""
        self.end_processes(mark)
        shutil.rmtree(self.directory, ignore_errors=True)

    def as_sandbox(self, toolbox_url: str) -> Sandbox:
        """Return what the API shows of the sandbox."""
        chosen = self.settings
        return Sandbox(
            id=self.id,
            organization_id=ORGANIZATION,
            name=chosen.name,
            snapshot=chosen.snapshot,
            user=chosen.user,
            env=chosen.env,
            labels=chosen.labels,
            public=chosen.public,
            network_block_all=chosen.network_block_all,
            network_allow_list=chosen.network_allow_list,
            domain_allow_list=chosen.domain_allow_list,
            kvm=False,
            target=chosen.target,
            cpu=chosen.cpu,
            gpu=chosen.gpu,
            memory=chosen.memory,
            disk=chosen.disk,
            state=self.state,
            desired_state=self.desired,
            error_reason=self.error_reason,
            recoverable=self.recoverable,
            backup_state="None",
            auto_stop_interval=chosen.auto_stop_interval,
            auto_pause_interval=chosen.auto_pause_interval,
            auto_archive_interval=chosen.auto_archive_interval,
            auto_delete_interval=chosen.auto_delete_interval,
            auto_destroy_at=rfc3339(self.destroy_at) if self.destroy_at else None,
            volumes=chosen.volumes,
            build_info=chosen.build_info,
            created_at=rfc3339(self.created_at),
            updated_at=rfc3339(self.updated_at),
            last_activity_at=rfc3339(self.last_activity_at),
            sandbox_class="container",
            daemon_version="double",
            runner_id="runner-double",
            toolbox_proxy_url=toolbox_url,
        )

    def as_list_item(self, toolbox_url: str) -> SandboxListItem:
        """Return what a list of the API shows of the sandbox, which is less."""
        whole = self.as_sandbox(toolbox_url).model_dump(exclude={*LISTED_WITHOUT, "additional_properties"})
        return SandboxListItem.model_validate(whole)


@dataclass(frozen=True)
class DoubleSandboxView:
    """What a test can read of a sandbox: a copy, which does not change."""

    id: str
    name: str
    state: str
    labels: dict[str, str]
    env: dict[str, str]
    home: Path
    workdir: Path
    sessions: tuple[str, ...]

    @classmethod
    def of(cls, record: DoubleSandbox) -> "DoubleSandboxView":
        """Return a copy of what a test can read of this sandbox."""
        return cls(
            record.id,
            record.settings.name,
            record.state.value,
            dict(record.settings.labels),
            dict(record.settings.env),
            record.home,
            record.workdir,
            tuple(record.sessions),
        )
