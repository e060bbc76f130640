"""Opens an attempt for each waiting task when its turn comes, and asks the gateway to create the sandbox."""

from typing import Any

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.fleet.store import agents, candidates
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.store import attempts, queue
from muster.agent_manager.tasks.store.transitions import change_task
from muster.common.faults import Fault, Gone, TimedOut, TooMany, Unavailable

MOST_BUGS = 5
"""After this many internal errors of the gateway for one attempt, the task fails."""

Intent = tuple[TaskRecord, AttemptRecord]


class Dispatcher:
    """Stores attempts before it asks for their sandboxes, and asks until the gateway answers: a crash loses nothing."""

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
        """Ask the gateway to create the sandbox of one attempt."""
        task, attempt = intent
        try:
            await self._gateway.create(task, attempt, config=await self._config(attempt.agent_id))
        except (Unavailable, TimedOut, TooMany):
            raise
        except Gone:
            return  # the epoch was fenced before its sandbox existed; its replacement continues
        except Fault as refusal:
            if type(refusal) is Fault and self._count_bug(attempt.attempt_id) < MOST_BUGS:
                raise
            await self._give_up(attempt, str(refusal))
        else:
            async with self._database.begin() as tx:
                if found := await attempts.of_sandbox(tx, attempt.sandbox_id):
                    await attempts.created(tx, *found)
        self._bugs.pop(attempt.attempt_id, None)

    async def _config(self, agent_id: str) -> dict[str, Any]:
        found = await candidates.one(self._database.reader, agent_id)
        return found[0].spec.config if found else {}

    async def _open_one(self) -> bool:
        settings = self._settings
        async with self._database.begin() as tx:
            task = await queue.next_task(tx, max_running=settings.max_running, ageing_s=settings.ageing_s)
            if task is None:
                return False
            if (agent_id := task.wanted_agent_id or await agents.taker(tx, task.package)) is None:
                return False  # the agent was stopped at this moment; the loop wakes when it starts again
            await queue.open_attempt(tx, task, agent_id)
            return True

    async def _give_up(self, attempt: AttemptRecord, why: str) -> None:
        """Fail the task: a request that the gateway refuses once, it refuses every time."""
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
