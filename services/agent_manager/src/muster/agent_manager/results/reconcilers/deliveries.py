"""Delivers accepted results: asks the gateway to push each result, and completes the task when it is pushed.

```
validating ──accepted──▶ validating, delivery pending ──▶ completed, delivery delivered
                                     │
                                     └── refused, or no success within an hour ──▶ failed, delivery failed
```
`DeliverTask` makes the delivery of a task that has ended pending (again). The outcome of such a delivery is stored, and
the state of the task does not change.

The gateway makes the same commit and finds the open pull request when the request is repeated, so a manager that dies
at any line repeats the request. The diff of a task whose delivery failed is kept.
"""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.results.domain.deliveries import (
    NO_BASE,
    delivered,
    delivery_request,
    is_overdue,
    undeliverable,
)
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store import tasks
from muster.agent_manager.tasks.store.transitions import change_delivery, change_task, lock_task
from muster.common.clock import Clock
from muster.common.contracts.tasks import Delivery
from muster.common.faults import Conflict, Fault, Forbidden, Gone, InvalidMessage, NotFound, TooLarge

DELIVERED_LATE = "the result was accepted, and delivered only after the task had failed"
"""The error of a failed task whose result was delivered afterwards."""
_FINAL = (NotFound, Gone, Conflict, Forbidden, InvalidMessage, TooLarge)


class ResultDelivery:
    """Finds tasks whose accepted result is not delivered yet, and delivers each result."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, *, now: Clock) -> None:
        self._database, self._gateway, self._now = database, gateway, now

    async def find(self) -> list[str]:
        """Return the ids of the tasks whose accepted result is not delivered yet."""
        async with self._database.begin() as tx:
            return await tasks.undelivered(tx)

    async def act(self, task_id: str) -> None:
        """Deliver the result of one task, and store the next state of the task."""
        async with self._database.begin() as tx:
            task = await tasks.read(tx, task_id)
        if task is None or task.delivery is None or not _is_pending(task):
            return
        after = await self._deliver(task, task.delivery)
        async with self._database.begin() as tx:
            now = await lock_task(tx, task_id)
            if now is None or not _is_pending(now) or now.delivery != task.delivery:
                return  # Since the first read, the task was cancelled, or another replica stored its next state.
            if now.state != "validating":
                late = DELIVERED_LATE if now.state == "failed" and after.state == "delivered" else now.error
                await change_delivery(tx, now, after, error=late)
            elif after.state == "delivered":
                await change_task(tx, now, "completed", delivery=after)
            else:
                why = f"the result was accepted, but not delivered: {after.error}"
                await change_task(tx, now, "failed", reason=why, error=why, delivery=after)

    async def _deliver(self, task: TaskRecord, delivery: Delivery) -> Delivery:
        request = delivery_request(task, delivery)
        if request is None:
            return undeliverable(delivery, NO_BASE)
        try:
            return delivered(delivery, await self._gateway.deliver(request))
        except Fault as refusal:
            if isinstance(refusal, _FINAL) or is_overdue(delivery, self._now()):
                return undeliverable(delivery, refusal)
            raise


def _is_pending(task: TaskRecord) -> bool:
    """Return whether a task that was not cancelled has a delivery without an outcome."""
    open_or_ended = task.state in ("validating", "completed", "failed")
    return open_or_ended and task.delivery is not None and task.delivery.state == "pending"
