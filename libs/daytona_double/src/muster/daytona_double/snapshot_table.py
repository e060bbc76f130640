"""The snapshots from which sandboxes are made. Those made from a sandbox are copies of its directories."""

import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daytona_api_client import SnapshotDto, SnapshotState

from muster.daytona_double.clock import DoubleClock
from muster.daytona_double.refusals import conflict, not_found
from muster.daytona_double.sandbox_record import ORGANIZATION, DoubleSandbox


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot. `directory` has the files of the sandbox that it was made from, if it was."""

    id: str
    name: str
    made_at: datetime
    directory: Path | None = None
    source_id: str | None = None

    def as_dto(self) -> SnapshotDto:
        """Return what the API shows of the snapshot."""
        return SnapshotDto(
            id=self.id,
            organization_id=ORGANIZATION,
            general=self.source_id is None,
            name=self.name,
            state=SnapshotState.ACTIVE,
            size=0.1,
            entrypoint=None,
            cpu=1,
            gpu=0,
            mem=1,
            disk=3,
            error_reason=None,
            created_at=self.made_at,
            updated_at=self.made_at,
            last_used_at=None,
            source_sandbox_id=self.source_id,
        )


class SnapshotTable:
    """The snapshots of a double."""

    def __init__(self, directory: Path, names: Iterable[str], clock: DoubleClock) -> None:
        self._directory, self._clock = directory, clock
        self._snapshots = {name: SnapshotRecord(_new_id(), name, clock()) for name in names}

    @property
    def all(self) -> list[SnapshotRecord]:
        """All snapshots, oldest first."""
        return list(self._snapshots.values())

    def find(self, id_or_name: str) -> SnapshotRecord:
        """Return the snapshot with this id or name. Raises `Refusal` (404) if there is none."""
        for snapshot in self._snapshots.values():
            if id_or_name in {snapshot.id, snapshot.name}:
                return snapshot
        raise not_found(f"Snapshot {id_or_name} not found")

    def add(self, name: str, source: DoubleSandbox) -> SnapshotRecord:
        """Make a snapshot of a sandbox's files. Raises `Refusal` (409) if the name is in use."""
        if name in self._snapshots:
            raise conflict(f"Snapshot with name {name} already exists")
        snapshot_id = _new_id()
        directory = self._directory / snapshot_id
        for place in (source.home, source.workdir):
            shutil.copytree(place, directory / place.name, symlinks=True)
        made = self._snapshots[name] = SnapshotRecord(snapshot_id, name, self._clock(), directory, source.id)
        return made

    def remove(self, id_or_name: str) -> None:
        """Delete a snapshot and its files. Raises `Refusal` (404) if there is none."""
        snapshot = self.find(id_or_name)
        del self._snapshots[snapshot.name]
        if snapshot.directory:
            shutil.rmtree(snapshot.directory, ignore_errors=True)


def _new_id() -> str:
    return f"snap-{secrets.token_hex(8)}"
