"""Handles the request to deliver the accepted result of a task that has ended."""

import msgspec

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.results.domain.deliveries import later_delivery
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.handlers.views import task_view
from muster.agent_manager.tasks.store import tasks
from muster.agent_manager.tasks.store.transitions import change_delivery, lock_task
from muster.common.clock import Clock
from muster.common.contract import fields_of, token
from muster.common.contracts.task_spec import Deliver
from muster.common.contracts.tasks import DeliverTask, TaskView
from muster.common.faults import NotFound


class DeliveryRequests:
    """Stores that the result of a task is to be delivered; the loop `delivery` then delivers it."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, *, now: Clock) -> None:
        self._database, self._gateway, self._now = database, gateway, now

    async def deliver(self, command: DeliverTask) -> TaskView:
        """Make the delivery of a task pending, and return the task. A repeated request changes nothing.

        Raises `NotFound`, `Conflict` if the task has no result that can be delivered so, and `InvalidMessage` if the
        gateway can never deliver to the task's repository.
        """
        asked = Deliver(**fields_of(Deliver, command))
        async with self._database.begin() as tx:
            task = _existing(await tasks.read(tx, token(command.task_id, "task_id")), command.task_id)
            found = later_delivery(task, asked, now=self._now())
            if found is None:
                return await _view(tx, task)
        # No transaction is open while the gateway is asked.
        await self._gateway.check(task.package, model=None, repo=task.spec.repo, deliver=found[0])
        async with self._database.begin() as tx:
            task = _existing(await lock_task(tx, command.task_id), command.task_id)
            found = later_delivery(task, asked, now=self._now())
            if found is not None:
                deliver, delivery = found
                spec = msgspec.structs.replace(task.spec, deliver=deliver)
                task = await change_delivery(tx, task, delivery, spec=spec)
            return await _view(tx, task)


def _existing(task: TaskRecord | None, task_id: str) -> TaskRecord:
    if task is None:
        raise NotFound(f"there is no task {task_id}", field="$.task_id")
    return task


async def _view(tx: Transaction, task: TaskRecord) -> TaskView:
    return task_view(task, await tasks.attempts_of(tx, task.task_id))
