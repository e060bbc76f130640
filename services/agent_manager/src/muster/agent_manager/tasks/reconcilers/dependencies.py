"""Queues a blocked task when all its dependencies are completed, or fails the task when a dependency has failed."""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.tasks.store import tasks
from muster.agent_manager.tasks.store.transitions import change_task, lock_task


class DependencyResolver:
    """Finds blocked tasks whose dependencies have ended, and queues or fails each of these tasks."""

    def __init__(self, database: ManagerDatabase) -> None:
        self._database = database

    async def find(self) -> list[str]:
        """Return the ids of blocked tasks that can be queued or must fail."""
        async with self._database.begin() as tx:
            return await tasks.settled(tx)

    async def act(self, task_id: str) -> None:
        """Queue a blocked task, or fail the task if a dependency failed, was cancelled or no longer exists."""
        async with self._database.begin() as tx:
            if (task := await lock_task(tx, task_id)) is None or task.state != "blocked":
                return
            states = await tasks.states(tx, task.spec.depends_on)
            gone = [other for other in task.spec.depends_on if other not in states]
            ended = [other for other, state in states.items() if state in ("failed", "cancelled")]
            if ended:
                why = f"this task depends on task {ended[0]}, whose state is {states[ended[0]]}"
                await change_task(tx, task, "failed", reason=why, error=why)
            elif gone:
                why = f"this task depends on task {gone[0]}, which no longer exists"
                await change_task(tx, task, "failed", reason=why, error=why)
            elif all(state == "completed" for state in states.values()):
                await change_task(tx, task, "queued")
