"""Handles queries: get one sandbox, list sandboxes, verify a log."""

from collections.abc import Iterable

import msgspec

from muster.common.contract import encode, token
from muster.common.contracts.gateway import (
    GetSandbox,
    ListSandboxes,
    SandboxPage,
    SandboxView,
    Verdict,
    VerifySandbox,
)
from muster.common.contracts.limits import MOST_PAGE_BYTES, SHORT_TEXT
from muster.common.faults import NotFound
from muster.sandbox_gateway.sandbox_log.domain.verify import verify
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.store import SandboxStore

VERIFY_S = 60.0
_MOST_LISTED = 5000


class SandboxQueries:
    """Answers queries about sandboxes from their records and logs."""

    def __init__(self, sandboxes: SandboxStore, log: SandboxLog, fences: FenceStore) -> None:
        self._sandboxes, self._log, self._fences = sandboxes, log, fences

    async def get(self, query: GetSandbox) -> SandboxView:
        """Return a sandbox with the next seq that its log expects. Raises `NotFound`."""
        record = await self._sandboxes.get(token(query.sandbox_id, "sandbox_id"))
        if record is None:
            raise NotFound(f"there is no sandbox {query.sandbox_id}", field="$.sandbox_id")
        tail = await self._log.tail(query.sandbox_id)
        return self._view(record, tail.next if tail else None)

    async def list(self, query: ListSandboxes) -> SandboxPage:
        """Return the newest sandboxes that exist, then the newest deleted ones, as many as fit into one reply."""
        records = [record for record in self._sandboxes.all() if query.task_id in (None, record.create.task_id)]
        records.sort(key=lambda record: (record.state != "deleted", record.created_at, record.sandbox_id), reverse=True)
        return SandboxPage(sandboxes=views_that_fit(self._view(record) for record in records[:_MOST_LISTED]))

    async def verify(self, query: VerifySandbox) -> Verdict:
        """Read and verify a whole log.

        Raises `NotFound` if the log is empty and neither a record nor a fence shows that it had frames before.
        """
        sandbox_id = token(query.sandbox_id, "sandbox_id")
        record = await self._sandboxes.get(sandbox_id)
        opened = record is not None and record.opened
        bodies = await self._log.frames(sandbox_id)
        if not bodies and not opened:
            if self._fences.get(sandbox_id) is None:
                raise NotFound(f"there is no sandbox {sandbox_id}, or its log has not begun", field="$.sandbox_id")
            opened = True  # a fence is stored together with a `fenced` frame, so the log was not empty
        return verify(sandbox_id, bodies, opened=opened)

    def _view(self, record: SandboxRecord, next_seq: int | None = None) -> SandboxView:
        """Return the view of a record. A fenced sandbox is shown as `fenced`, even while its worker still runs."""
        if record.live and self._fences.get(record.sandbox_id):
            record = record.moved("fenced")
        return record.view(next_seq)


def views_that_fit(views: Iterable[SandboxView]) -> list[SandboxView]:
    """Return the first views that fit into one reply, with long errors shortened; `GetSandbox` returns full errors."""
    listed, size = list[SandboxView](), 0
    for view in views:
        if view.error is not None and len(view.error) > SHORT_TEXT:
            view = msgspec.structs.replace(view, error=f"{view.error[: SHORT_TEXT - 1]}…")  # noqa: PLW2901
        size += len(encode(view))
        if size > MOST_PAGE_BYTES:
            break
        listed.append(view)
    return listed
