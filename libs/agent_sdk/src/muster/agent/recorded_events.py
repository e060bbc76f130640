"""Adds to the events of a run the ids of the commits that record the workspace, and makes the records in time."""

import asyncio
from collections.abc import Iterator

import msgspec

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.task_run import EventSource
from muster.agent.workspace_record import WorkspaceRecord
from muster.common.contracts.sandbox_log import LoggedEvent

_AFTER = "ObservationEvent"


async def record_skipped_steps(record: WorkspaceRecord, skipped: AutoResetEvent) -> None:
    """Record the files after each last skipped step as soon as its pause is over, until cancelled."""
    while True:
        await skipped.wait()
        early_s = await asyncio.to_thread(record.catch_up)
        while early_s is not None:
            await asyncio.sleep(early_s)
            early_s = await asyncio.to_thread(record.catch_up)


class RecordedEvents:
    """The events of a run, each with the id of the commit that records the workspace after it.

    A record is made when the outbox reads new events, so it contains at least the changes of the steps before them. The
    last step of the events that are read together gets the commit.
    """

    def __init__(self, source: EventSource, record: WorkspaceRecord) -> None:
        self._source, self._record = source, record

    def count(self) -> int:
        """Return the number of events on disk."""
        return self._source.count()

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        """Return at most `limit` events, from index `start` on."""
        events = self._source.read(start, limit)
        last_step = next((event.seq for event in reversed(events) if event.kind == _AFTER), None)
        return list(self._with_commits(events, last_step))

    def _with_commits(self, events: list[LoggedEvent], last_step: int | None) -> Iterator[LoggedEvent]:
        for event in events:
            commit = self._record.after(event.seq, is_step=event.seq == last_step)
            yield msgspec.structs.replace(event, workspace=commit) if commit else event
