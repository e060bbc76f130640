"""Handles queries about sandboxes: returns one sandbox, lists sandboxes, and verifies a sandbox's log."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal

import msgspec

from muster.common.clock import Clock
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
from muster.common.faults import Fault, NotFound
from muster.sandbox_gateway.sandbox_log.domain.verify import referred_payloads, verify
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandbox_log.store.payloads import PayloadStore
from muster.sandbox_gateway.sandboxes.domain.cost import model_cost, ran_s, sandbox_cost, total
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.store import SandboxStore

VERIFY_S = 60.0
_MOST_LISTED = 5000
_MOST_COSTS = 64
"""The number of sandboxes at the beginning of a list whose model calls are looked up, each with one read."""
ModelsCost = Callable[[str], Awaitable[float | None]]


class SandboxQueries:
    """Answers queries about sandboxes from the sandboxes' records and logs."""

    def __init__(
        self,
        sandboxes: SandboxStore,
        log: SandboxLog,
        fences: FenceStore,
        payloads: PayloadStore,
        models_cost: ModelsCost,
        now: Clock,
    ) -> None:
        """Set the parts. `models_cost` returns the cost of a sandbox's model calls in US dollars."""
        self._sandboxes, self._log, self._fences, self._payloads = sandboxes, log, fences, payloads
        self._models_cost, self._now = models_cost, now

    async def get(self, query: GetSandbox) -> SandboxView:
        """Return a sandbox and the seq of the next event that the sandbox's log expects. Raises `NotFound`."""
        record = await self._sandboxes.get(token(query.sandbox_id, "sandbox_id"))
        if record is None:
            raise NotFound(f"there is no sandbox {query.sandbox_id}", field="$.sandbox_id")
        tail = await self._log.tail(query.sandbox_id)
        return self._view(record, tail.next if tail else None, await self._cost_of_models(record))

    async def list(self, query: ListSandboxes) -> SandboxPage:
        """List the newest existing sandboxes, then the newest deleted sandboxes, as many as fit into one NATS reply."""
        records = [record for record in self._sandboxes.all() if query.task_id in (None, record.create.task_id)]
        records.sort(key=lambda record: (record.state != "deleted", record.created_at, record.sandbox_id), reverse=True)
        newest = records[:_MOST_COSTS]
        costs = await asyncio.gather(*map(self._cost_of_models, newest))
        known = {record.sandbox_id: cost for record, cost in zip(newest, costs, strict=True)}
        views = (self._view(record, models=known.get(record.sandbox_id)) for record in records[:_MOST_LISTED])
        return SandboxPage(sandboxes=views_that_fit(views))

    async def verify(self, query: VerifySandbox) -> Verdict:
        """Read the whole log of a sandbox and the payloads of its events, and verify them.

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
        payload_faults = await self._payloads.faults(sandbox_id, referred_payloads(bodies))
        return verify(sandbox_id, bodies, opened=opened, payload_faults=payload_faults)

    def _view(self, record: SandboxRecord, next_seq: int | None = None, models: Decimal | None = None) -> SandboxView:
        """Return a sandbox's view. The view's state is `fenced` after a fence, even while the worker still runs."""
        if record.live and self._fences.get(record.sandbox_id):
            record = record.moved("fenced")
        now = self._now()
        own = sandbox_cost(record, now)
        return msgspec.structs.replace(
            record.view(next_seq),
            seconds=round(ran_s(record, now), 3),
            sandbox_cost_usd=own,
            model_cost_usd=models,
            cost_usd=total(own, models),
        )

    async def _cost_of_models(self, record: SandboxRecord) -> Decimal | None:
        try:
            cost = await self._models_cost(record.sandbox_id)
        except Fault:  # The view is worth more than one of its fields.
            return None
        return None if cost is None else model_cost(cost)


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
