"""All sandboxes, and what happens to them with time.

`settle` brings every sandbox to the state in which it should be now: it ends changes that are due, stops, archives and
destroys by the intervals, and applies faults. It runs before each request and four times a second, so no change of
state has a task of its own.
"""

import asyncio
import secrets
import signal
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from daytona_api_client import SandboxDesiredState, SandboxListItem, SandboxState

from muster.daytona_double.double_settings import DoubleSettings
from muster.daytona_double.faults import Faults
from muster.daytona_double.processes import kill_marked, mark_of, signal_marked
from muster.daytona_double.refusals import Refusal, bad_request, conflict, not_found
from muster.daytona_double.sandbox_record import AT_REST, Change, DoubleSandbox, SandboxSettings

ACTIVE = {SandboxState.STARTED, SandboxState.CREATING, SandboxState.STARTING, SandboxState.RESTORING}
"""States in which a sandbox uses its share of the quota."""
IN_PROGRESS = "Sandbox state change in progress"
type StateObserver = Callable[[DoubleSandbox, SandboxState | None], None]
"""Is called after each change of state, with the state before; None for a new sandbox."""


class SandboxTable:
    """The sandboxes of a double."""

    def __init__(self, settings: DoubleSettings, faults: Faults, toolbox_url: str) -> None:
        self.settings, self.faults, self.toolbox_url = settings, faults, toolbox_url
        self.observer: StateObserver = _no_observer
        self._records: dict[str, DoubleSandbox] = {}
        self._created = 0
        self._listed: dict[str, list[tuple[float, SandboxListItem | None]]] = {}
        """For each sandbox, from when on a list showed it how."""

    @property
    def records(self) -> list[DoubleSandbox]:
        """The sandboxes that exist, oldest first."""
        return list(self._records.values())

    def mark(self, record: DoubleSandbox) -> str:
        """Return the mark of the sandbox's processes."""
        return mark_of(self.settings.root, record.id)

    def find(self, id_or_name: str) -> DoubleSandbox:
        """Return the sandbox with this id or name. Raises `Refusal` (404) if there is none."""
        if record := self._records.get(id_or_name):
            return record
        for record in self._records.values():
            if record.settings.name == id_or_name:
                return record
        raise not_found(f"Sandbox with ID or name {id_or_name} not found")

    def add(
        self, chosen: SandboxSettings, *, like: Path | None = None, state: SandboxState = SandboxState.CREATING
    ) -> DoubleSandbox:
        """Create a sandbox that is `started` after a while, with the files below `like`.

        Raises `Refusal`: 409 if the name is in use, 400 if the quota is exhausted.
        """
        if any(record.settings.name == chosen.name for record in self._records.values()):
            raise conflict(f"Sandbox with name {chosen.name} already exists")
        self.check_quota(chosen.cpu)
        sandbox_id = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        chosen.name = chosen.name or sandbox_id
        self._created += 1
        directory = self.settings.root / sandbox_id
        record = DoubleSandbox(sandbox_id, self._created, chosen, directory, self.settings.clock())
        record.make_directories(like=like)
        self._records[sandbox_id] = record
        record.state = state
        self.observer(record, None)
        self._begin(record, SandboxState.STARTED, SandboxDesiredState.STARTED)
        return record

    def check_quota(self, cpu: int) -> None:
        """Raise `Refusal` (400) if this many CPUs more would exceed the quota."""
        used = sum(record.settings.cpu for record in self._records.values() if record.state in ACTIVE)
        if used + cpu > self.settings.max_cpu:
            raise bad_request(f"Total CPU limit exceeded. Maximum allowed: {self.settings.max_cpu}.")

    def change(
        self,
        record: DoubleSandbox,
        through: SandboxState,
        to: SandboxState,
        desired: SandboxDesiredState | None = None,
    ) -> None:
        """Begin a change of state. Raises `Refusal` (409) if another change is under way."""
        self.check_settled(record)
        self._set_state(record, through)
        self._begin(record, to, desired or AT_REST[to])

    def check_settled(self, record: DoubleSandbox) -> None:
        """Raise `Refusal` (409) if a change of the sandbox's state is under way."""
        if record.change is not None:
            raise conflict(IN_PROGRESS)

    def fail(self, record: DoubleSandbox, reason: str, *, recoverable: bool) -> None:
        """Put a sandbox into the state `error` and kill its processes."""
        record.end_processes(self.mark(record))
        record.change, record.error_reason, record.recoverable = None, reason, recoverable
        self._set_state(record, SandboxState.ERROR)
        record.settled.set()

    def vanish(self, record: DoubleSandbox) -> None:
        """Remove a sandbox at once, without any change of state that a client could see."""
        record.remove(self.mark(record))
        del self._records[record.id]
        record.settled.set()
        self._note(record, None)

    def touch(self, record: DoubleSandbox) -> None:
        """Count an activity, from which the interval of auto-stop starts again."""
        record.last_activity_at = self.settings.clock()

    def note(self, record: DoubleSandbox) -> None:
        """Let lists show a sandbox as it is now, after `list_lag_s` seconds."""
        record.updated_at = self.settings.clock()
        self._note(record, record.as_list_item(self.toolbox_url))

    def listed(self) -> list[tuple[int, SandboxListItem]]:
        """Return the sandboxes as a list shows them: as they were `list_lag_s` seconds ago, with their numbers."""
        until = self._now() - self.settings.list_lag_s
        found: list[tuple[int, SandboxListItem]] = []
        for number, history in enumerate(self._listed.values(), 1):
            shown = [item for since, item in history if since <= until]
            if shown and (item := shown[-1]):
                found.append((number, item))
        return found

    async def wait_started(self, record: DoubleSandbox) -> None:
        """Wait until no change is under way. Raises `Refusal` if the sandbox is not started then, or takes too long."""
        try:
            async with asyncio.timeout(self.settings.start_within_s):
                await record.settled.wait()
        except TimeoutError:
            raise Refusal(408, f"Sandbox failed to start within {self.settings.start_within_s} seconds") from None
        if record.state is SandboxState.ERROR:
            raise bad_request(f"Sandbox {record.id} failed to start: {record.error_reason}")

    def settle(self) -> None:
        """Bring every sandbox to the state in which it should be now."""
        now = self._now()
        for record in self.records:
            if record.change and record.change.due_s <= now:
                self._end_change(record, record.change)
            if record.change is None:
                self._apply_intervals(record)

    def clear(self) -> None:
        """Kill the processes of all sandboxes and delete their files."""
        kill_marked(mark_of(self.settings.root))
        for record in self.records:
            record.remove(self.mark(record))
            record.settled.set()
        self._records.clear()

    def _begin(self, record: DoubleSandbox, to: SandboxState, desired: SandboxDesiredState) -> None:
        record.desired, record.change = desired, Change(to, self._now() + self.settings.change_s)
        record.settled.clear()
        self.note(record)
        asyncio.get_running_loop().call_later(self.settings.change_s + 0.001, self.settle)

    def _end_change(self, record: DoubleSandbox, change: Change) -> None:
        if change.to is SandboxState.DESTROYED:
            if not self.faults.holds("stuck-destroying", sandbox=record.names):
                self._destroy(record)
            return
        if change.to is SandboxState.STARTED:
            if fault := self.faults.take("error-state", sandbox=record.names):
                self.fail(record, "injected by the double", recoverable=fault.recoverable)
                return
            record.error_reason = record.recoverable = None
        if change.to in {SandboxState.STOPPED, SandboxState.ARCHIVED}:
            record.stopped_at = self.settings.clock()
        record.change = None
        self.touch(record)
        self._set_state(record, change.to)
        record.settled.set()
        if change.to is SandboxState.STOPPED and record.settings.auto_delete_interval == 0:
            self.change(record, SandboxState.DESTROYING, SandboxState.DESTROYED)

    def _destroy(self, record: DoubleSandbox) -> None:
        record.remove(self.mark(record))
        del self._records[record.id]
        record.change = None
        before, record.state = record.state, SandboxState.DESTROYED
        record.settled.set()
        self._note(record, None)
        self.observer(record, before)

    def _set_state(self, record: DoubleSandbox, state: SandboxState) -> None:
        before, record.state = record.state, state
        if state in {SandboxState.STOPPING, SandboxState.DESTROYING}:
            record.end_processes(self.mark(record))
        elif state is SandboxState.PAUSED:
            signal_marked(self.mark(record), signal.SIGSTOP)
        elif before is SandboxState.RESUMING:
            signal_marked(self.mark(record), signal.SIGCONT)
        self.note(record)
        self.observer(record, before)

    def _apply_intervals(self, record: DoubleSandbox) -> None:
        now, chosen, rest = self.settings.clock(), record.settings, record.stopped_at
        if record.destroy_at and now >= record.destroy_at:
            self.change(record, SandboxState.DESTROYING, SandboxState.DESTROYED)
        elif record.state is SandboxState.STARTED:
            if chosen.auto_stop_interval and now >= record.last_activity_at + _minutes(chosen.auto_stop_interval):
                self.change(record, SandboxState.STOPPING, SandboxState.STOPPED)
        elif record.state in {SandboxState.STOPPED, SandboxState.ARCHIVED} and rest:
            if chosen.auto_delete_interval > 0 and now >= rest + _minutes(chosen.auto_delete_interval):
                self.change(record, SandboxState.DESTROYING, SandboxState.DESTROYED)
            elif record.state is SandboxState.STOPPED and now >= rest + _minutes(chosen.auto_archive_interval):
                self.change(record, SandboxState.ARCHIVING, SandboxState.ARCHIVED)

    def _note(self, record: DoubleSandbox, item: SandboxListItem | None) -> None:
        self._listed.setdefault(record.id, []).append((self._now(), item))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _no_observer(record: DoubleSandbox, before: SandboxState | None) -> None:
    del record, before


def _minutes(count: float) -> timedelta:
    return timedelta(minutes=count)
