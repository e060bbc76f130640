"""Ends attempts whose sandbox does not open in time, or whose worker runs longer than the timeout of the task."""

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.limits import took_too_long
from muster.agent_manager.tasks.store import attempts, replacements

Overdue = tuple[AttemptRecord, bool]


class OverdueAttempts:
    """Replaces an attempt whose sandbox log does not begin in time, and fails a task that runs past its timeout."""

    def __init__(self, database: ManagerDatabase, gateway: SandboxGatewayClient, settings: ManagerSettings) -> None:
        self._database, self._gateway, self._settings = database, gateway, settings

    async def find(self) -> list[Overdue]:
        """Return the overdue attempts, each with True if its log has not begun, or False if its result is missing."""
        async with self._database.begin() as tx:
            return await attempts.overdue(tx, opened_within_s=self._settings.opened_within_s)

    async def act(self, overdue: Overdue) -> None:
        """Begin to replace one overdue attempt; retry the task if the sandbox log never began, else fail the task."""
        attempt, to_open = overdue
        prepares = to_open and await self._gateway.prepares(attempt.sandbox_id)
        async with self._database.begin() as tx:
            if (found := await attempts.of_sandbox(tx, attempt.sandbox_id)) is None:
                return
            task, attempt = found
            if prepares and await attempts.wait_longer(tx, attempt, most_s=task.spec.time_limit_s):
                return  # A clone, an upload or a quota may take long. The gateway says that it works on it.
            if to_open and attempt.opened_at is None:
                reason = f"the sandbox did not open within {self._settings.opened_within_s:g} s"
                await replacements.begin(tx, task, attempt, reason=reason, ends="lost", then="retry")
            elif not to_open:
                reason = took_too_long(task.spec.time_limit_s, attempt.model_failure)
                await replacements.begin(tx, task, attempt, reason=reason, ends="fenced", then="fail", limit="time")
