"""Sandboxes as others see them, and what their logs prove."""

from muster.common.contract import token
from muster.common.contracts.gateway import (
    GetSandbox,
    ListSandboxes,
    SandboxPage,
    SandboxView,
    Verdict,
    VerifySandbox,
)
from muster.common.faults import NotFound
from muster.sandbox_gateway.domain.sandboxes import SandboxRecord
from muster.sandbox_gateway.domain.verify import verify
from muster.sandbox_gateway.store.fences import Fences
from muster.sandbox_gateway.store.log import SandboxLog
from muster.sandbox_gateway.store.sandboxes import Sandboxes

VERIFY_S = 60.0
_MOST_LISTED = 5000


class Queries:
    """Answers from records and logs."""

    def __init__(self, sandboxes: Sandboxes, log: SandboxLog, fences: Fences) -> None:
        self._sandboxes, self._log, self._fences = sandboxes, log, fences

    async def get(self, query: GetSandbox) -> SandboxView:
        """One, with what its log expects next."""
        record = await self._sandboxes.get(token(query.sandbox_id, "sandbox_id"))
        if record is None:
            raise NotFound("there is no such sandbox", field="$.sandbox_id")
        tail = await self._log.tail(query.sandbox_id)
        return self._view(record, tail.next if tail else None)

    async def list(self, query: ListSandboxes) -> SandboxPage:
        """Those that are there, the newest first; then, as far as there is room, those that were."""
        records = [record for record in self._sandboxes.all() if query.task_id in (None, record.create.task_id)]
        records.sort(key=lambda record: (record.state != "deleted", record.created_at, record.sandbox_id), reverse=True)
        return SandboxPage(sandboxes=[self._view(record) for record in records[:_MOST_LISTED]])

    async def verify(self, query: VerifySandbox) -> Verdict:
        """Read the whole log."""
        bodies = await self._log.frames(token(query.sandbox_id, "sandbox_id"))
        if not bodies:
            raise NotFound(f"there is no sandbox {query.sandbox_id}, or its log has not begun", field="$.sandbox_id")
        return verify(query.sandbox_id, bodies)

    def _view(self, record: SandboxRecord, next_seq: int | None = None) -> SandboxView:
        """A fenced sandbox is `fenced` at once, though its worker may still run for a moment."""
        if record.live and self._fences.get(record.sandbox_id):
            record = record.moved("fenced")
        return record.view(next_seq)
