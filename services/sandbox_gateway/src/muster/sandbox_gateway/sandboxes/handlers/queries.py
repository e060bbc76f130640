"""Handles queries about sandboxes: returns one sandbox, lists sandboxes, and verifies a sandbox's log."""

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
    """Answers queries about sandboxes from the sandboxes' records and logs."""

    def __init__(self, sandboxes: SandboxStore, log: SandboxLog, fences: FenceStore) -> None:
        self._sandboxes, self._log, self._fences = sandboxes, log, fences

    async def get(self, query: GetSandbox) -> SandboxView:
        """Return a sandbox and the seq of the next event that the sandbox's log expects. Raises `NotFound`."""
        record = await self._sandboxes.get(token(query.sandbox_id, "sandbox_id"))
        if record is None:
            raise NotFound(f"there is no sandbox {query.sandbox_id}", field="$.sandbox_id")
        tail = await self._log.tail(query.sandbox_id)
        return self._view(record, tail.next if tail else None)

    async def list(self, query: ListSandboxes) -> SandboxPage:
        """List the newest existing sandboxes, then the newest deleted sandboxes, as many as fit into one NATS reply."""
        records = [record for record in self._sandboxes.all() if query.task_id in (None, record.create.task_id)]
        records.sort(key=lambda record: (record.state != "deleted", record.created_at, record.sandbox_id), reverse=True)
        return SandboxPage(sandboxes=views_that_fit(self._view(record) for record in records[:_MOST_LISTED]))

    async def verify(self, query: VerifySandbox) -> Verdict:
        """Read the whole log of a sandbox and verify it.

        Raises `NotFound` if the log is empty and was never opened. An empty log that was opened, as shown by the
        sandbox's record or by its fence, has lost its frames: the verdict then reports this.
        """
        sandbox_id = token(query.sandbox_id, "sandbox_id")
        record = await self._sandboxes.get(sandbox_id)
        opened = record is not None and record.opened
        bodies = await self._log.frames(sandbox_id)
        if not bodies and not opened:
            if self._fences.get(sandbox_id) is None:
                raise NotFound(f"there is no sandbox {sandbox_id}, or its log was not opened yet", field="$.sandbox_id")
            opened = True  # a fence also appends a `fenced` frame, so an empty log has lost this frame
        return verify(sandbox_id, bodies, opened=opened)

    def _view(self, record: SandboxRecord, next_seq: int | None = None) -> SandboxView:
        """Return a sandbox's view. The view's state is `fenced` after a fence, even while the worker still runs."""
        if record.live and self._fences.get(record.sandbox_id):
            record = record.moved("fenced")
        return record.view(next_seq)


def views_that_fit(views: Iterable[SandboxView]) -> list[SandboxView]:
    """Return the first views that fit into one NATS reply, with long error texts shortened.

    The request `GetSandbox` returns the full error text of a sandbox.
    """
    listed, size = list[SandboxView](), 0
    for view in views:
        if view.error is not None and len(view.error) > SHORT_TEXT:
            view = msgspec.structs.replace(view, error=f"{view.error[: SHORT_TEXT - 1]}…")  # noqa: PLW2901
        size += len(encode(view))
        if size > MOST_PAGE_BYTES:
            break
        listed.append(view)
    return listed
