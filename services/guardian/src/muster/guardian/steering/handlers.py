"""Handles the command `steer`, by which a person sends a message to an agent that works on a task."""

from collections.abc import AsyncIterator

from muster.common.bus.connection import Bus
from muster.common.contract import token
from muster.common.contracts.guardian import GuardianRecord, InterventionView, Steer
from muster.common.contracts.tasks import AttemptView, GetTask, ListTasks, TaskView
from muster.common.faults import Conflict, NotFound, Transient, Unavailable
from muster.guardian.journal.domain.inputs import SteerRequested
from muster.guardian.journal.domain.task_reports import ReportedAttempt, interventions
from muster.guardian.journal.store import GuardianLogs
from muster.guardian.trajectories.domain.trajectory import Trajectory
from muster.guardian.trajectories.store import TrajectoryStore

LIVE = ("intent", "creating", "running")
PAGE_LIMIT = 100
"""The number of tasks in one page of a list; the agent manager returns no more."""


class SteeringRequests:
    """Finds the live attempt and records the request; a recorded decision then makes the guardian send the message."""

    def __init__(self, bus: Bus, trajectories: TrajectoryStore, logs: GuardianLogs) -> None:
        self._bus, self._trajectories, self._logs = bus, trajectories, logs

    async def steer(self, command: Steer) -> InterventionView:
        """Record a steering message for the live attempt of a task or agent, and return the intervention.

        Idempotent by message id, also across attempts: a message to an earlier attempt is not sent to a later attempt.
        Raises `NotFound`, `Conflict` if no attempt runs, or `Unavailable`.
        """
        task = await self._task(command.target)
        for attempt in task.attempts:
            if view := await self._view(task, attempt, command.message_id):
                return view
        live = _live_attempt(task, command.target)

        def request(trajectory: Trajectory) -> SteerRequested | None:
            if not trajectory.live:
                raise Conflict(f"the attempt of task {task.task_id} has just ended; wait for the next attempt")
            if command.message_id in trajectory.interventions:
                return None
            return SteerRequested(
                message_id=command.message_id, text=command.text, sender=command.sender, urgent=command.urgent
            )

        try:
            await self._trajectories.add_input(live.sandbox_id, request)
        except NotFound:
            raise Conflict(f"the sandbox of task {task.task_id} is still being created; try again soon") from None
        except Transient as busy:
            raise Unavailable(str(busy)) from busy
        if view := await self._view(task, live, command.message_id):
            return view
        raise Unavailable("the message is recorded but cannot be read back yet; send it again with the same message_id")

    async def _view(self, task: TaskView, attempt: AttemptView, message_id: str) -> InterventionView | None:
        records: list[GuardianRecord]
        try:
            records, _ = await self._logs.records(attempt.sandbox_id)
        except Transient as lagging:
            raise Unavailable(str(lagging)) from lagging
        reported = ReportedAttempt(task.task_id, attempt.sandbox_id, attempt.epoch)
        views = interventions(records, reported)
        return next((view for view in views if view.message_id == message_id), None)

    async def _task(self, target: str) -> TaskView:
        try:
            return await self._bus.request(GetTask(task_id=token(target, "target")))
        except NotFound:
            async for task in self._running():
                if task.agent_id == target:
                    return task
        raise NotFound(f"there is no task and no running agent with the id {target}", field="$.target")

    async def _running(self) -> AsyncIterator[TaskView]:
        cursor: str | None = None
        while True:
            page = await self._bus.request(ListTasks(state="running", cursor=cursor, limit=PAGE_LIMIT))
            for task in page.tasks:
                yield task
            if (cursor := page.next_cursor) is None:
                return


def _live_attempt(task: TaskView, target: str) -> AttemptView:
    live = [attempt for attempt in task.attempts if attempt.state in LIVE and attempt.ended_at is None]
    if not live:
        raise Conflict(
            f"{target} has no running attempt (state of task {task.task_id}: {task.state})", field="$.target"
        )
    return max(live, key=lambda attempt: attempt.epoch)
