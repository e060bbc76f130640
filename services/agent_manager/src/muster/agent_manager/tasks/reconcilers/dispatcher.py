"""Opens an attempt for each queued task in order of priority, and asks the sandbox gateway to create its sandbox."""

from typing import Any

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.store import agent_queries, agents
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain import earlier_attempts
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store import attempts, next_task, tasks
from muster.agent_manager.tasks.store.transitions import change_task
from muster.common.faults import Fault, Gone, TimedOut, TooMany, Unavailable

MOST_BUGS = 5
"""The task fails after this many internal errors of the gateway for one attempt."""

Intent = tuple[TaskRecord, AttemptRecord]


class Dispatcher:
    """Stores attempts before requesting their sandboxes, and repeats each request until the gateway replies.

    So a crash of this process loses no attempt.
    """

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, settings: ManagerSettings) -> None:
        self._database, self._gateway, self._settings = database, gateway, settings
        self._bugs: dict[str, int] = {}

    async def find(self) -> list[Intent]:
        """Open attempts while the limits allow, and return every attempt that the gateway has not accepted yet."""
        while await self._open_one():
            pass
        async with self._database.begin() as tx:
            return await attempts.intents(tx)

    async def act(self, intent: Intent) -> None:
        """Ask the sandbox gateway to create the sandbox of one attempt."""
        task, attempt = intent
        try:
            earlier = await self._attempts(task.task_id)
            await self._gateway.create(
                task,
                attempt,
                config=await self._config(attempt.agent_id),
                previous=earlier_attempts.previous(task, attempt.epoch, earlier),
                used=earlier_attempts.used(attempt.epoch, earlier),
            )
        except (Unavailable, TimedOut, TooMany):
            raise
        except Gone:
            return  # The epoch was fenced before its sandbox existed; the replacement of the attempt continues.
        except Fault as refusal:
            if type(refusal) is Fault and self._count_bug(attempt.attempt_id) < MOST_BUGS:
                raise
            await self._give_up(attempt, str(refusal))
        else:
            async with self._database.begin() as tx:
                if found := await attempts.of_sandbox(tx, attempt.sandbox_id):
                    await attempts.created(tx, *found)
        self._bugs.pop(attempt.attempt_id, None)

    async def _attempts(self, task_id: str) -> list[AttemptRecord]:
        async with self._database.begin() as tx:
            return await tasks.attempts_of(tx, task_id)

    async def _config(self, agent_id: str) -> dict[str, Any]:
        found = await agent_queries.one(self._database.reader, agent_id)
        return found[0].spec.config if found else {}

    async def _open_one(self) -> bool:
        settings = self._settings
        async with self._database.begin() as tx:
            task = await next_task.next_task(tx, max_running=settings.max_running, ageing_s=settings.ageing_s)
            if task is None:
                return False
            if (agent_id := task.wanted_agent_id or await agents.taker(tx, task.package)) is None:
                return False  # All agents of the package have just stopped. This loop runs again when one starts.
            await next_task.open_attempt(tx, task, agent_id)
            return True

    async def _give_up(self, attempt: AttemptRecord, why: str) -> None:
        """Fail the task of a refused attempt: the gateway would refuse a repeated request too."""
        async with self._database.begin() as tx:
            found = await attempts.of_sandbox(tx, attempt.sandbox_id)
            if found is None or found[1].state != "intent":
                return
            task, attempt = found
            await attempts.step(tx, attempt, "lost", reason=why)
            if task.state == "assigned" and task.epoch == attempt.epoch:
                await change_task(tx, task, "failed", reason=why, error=why)

    def _count_bug(self, attempt_id: str) -> int:
        self._bugs[attempt_id] = self._bugs.get(attempt_id, 0) + 1
        return self._bugs[attempt_id]
