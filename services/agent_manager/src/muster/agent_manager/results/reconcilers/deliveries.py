"""Delivers accepted results: asks the gateway to push each result, and completes the task when it is pushed.

```
validating ──accepted──▶ validating, delivery pending ──▶ completed, delivery delivered
                                     │
                                     └── refused, or no success within an hour ──▶ failed, delivery failed
```
The gateway makes the same commit and finds the open pull request when the request is repeated, so a manager that dies
at any line repeats the request. The diff of a task whose delivery failed is kept.
"""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.results.domain.deliveries import (
    NO_BASE,
    PATIENCE,
    delivered,
    delivery_request,
    undeliverable,
)
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store import tasks
from muster.agent_manager.tasks.store.transitions import change_task, lock_task
from muster.common.clock import Clock
from muster.common.contracts.tasks import Delivery
from muster.common.faults import Conflict, Fault, Forbidden, Gone, InvalidMessage, NotFound, TooLarge

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
        if task is None or task.state != "validating" or task.delivery is None:
            return
        after = await self._deliver(task, task.delivery)
        async with self._database.begin() as tx:
            now = await lock_task(tx, task_id)
            if now is None or now.state != "validating" or now.delivery != task.delivery:
                return  # Since the first read, the task was cancelled, or another replica stored its next state.
            if after.state == "delivered":
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
            if isinstance(refusal, _FINAL) or self._now() - delivery.accepted_at > PATIENCE:
                return undeliverable(delivery, str(refusal))
            raise
