"""Handles requests for a report: the findings and interventions of the guardian for one task."""

from muster.common.bus.connection import Bus
from muster.common.contracts.guardian import FindingView, GetReport, GuardianReport, InterventionView
from muster.common.contracts.tasks import GetTask
from muster.common.faults import Transient, Unavailable
from muster.guardian.journal.domain.task_reports import ReportedAttempt, findings, interventions, shortened_to_fit
from muster.guardian.journal.store import GuardianLogs


class ReportRequests:
    """Answers requests for reports from the guardian's logs. Keeps no state, so every replica can answer."""

    def __init__(self, bus: Bus, logs: GuardianLogs) -> None:
        self._bus, self._logs = bus, logs

    async def get(self, query: GetReport) -> GuardianReport:
        """Return the guardian's findings and interventions for all attempts of a task, oldest attempt first.

        Raises `NotFound` for an unknown task, and `Unavailable` if a log cannot be read completely now.
        """
        task = await self._bus.request(GetTask(task_id=query.task_id))
        found, steered = list[FindingView](), list[InterventionView]()
        for attempt in sorted(task.attempts, key=lambda attempt: attempt.epoch):
            reported = ReportedAttempt(task.task_id, attempt.sandbox_id, attempt.epoch)
            try:
                records, _ = await self._logs.records(attempt.sandbox_id)
            except Transient as lagging:
                raise Unavailable(str(lagging)) from lagging
            found += findings(records, reported)
            steered += interventions(records, reported)
        return shortened_to_fit(GuardianReport(task_id=task.task_id, findings=found, interventions=steered))
