"""Runs the demo's tasks at the same time through the HTTP API and reads back the result of each.

For a case with `kill_after_actions`, the runner also kills the worker of the first attempt.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from muster.cli.demo.cases import PACKAGE, TEST_COMMAND, Case
from muster.cli.demo.progress_view import ProgressView
from muster.cli.demo.report import CaseOutcome, KilledWorker
from muster.cli.demo.task_progress import TaskProgress
from muster.client import AsyncMuster, NewRepo, NewTask
from muster.client.errors import ApiCallError
from muster.common.clock import Clock

READ_BACK_S = 5.0
"""Seconds to read back one task. The limit keeps the whole demo within its deadline if the API hangs."""


class DemoTaskRunner:
    """Runs cases of the demo until the deadline `ends_at_s`, a time in seconds on the event loop's clock."""

    def __init__(
        self, client: AsyncMuster, view: ProgressView, *, models: Mapping[str, str], ends_at_s: float, now: Clock
    ) -> None:
        self._client, self._view, self._models = client, view, models
        self._ends_at_s, self._now = ends_at_s, now
        self._killed: dict[str, KilledWorker] = {}

    async def run(self, cases: Sequence[Case], repositories: Mapping[str, Path]) -> list[CaseOutcome]:
        """Run all cases until they end or the deadline passes, and return one outcome for each.

        An error of the API or of a worker is not raised: the outcome of the case contains the error.
        """
        progresses = [TaskProgress(case) for case in cases]
        self._view.watch(progresses)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._run_case(progress, repositories[progress.case.name])) for progress in progresses
            ]
        return [task.result() for task in running]

    async def _run_case(self, progress: TaskProgress, repository: Path) -> CaseOutcome:
        trouble = ""
        left_s = max(0.0, self._ends_at_s - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout_at(self._ends_at_s):
                await self._submit(progress, repository, left_s)
                await self._follow(progress)
        except TimeoutError:
            trouble = f"the task did not end within {left_s:.0f} s"
        except (ApiCallError, ProcessLookupError) as error:
            trouble = str(error)
        outcome = CaseOutcome(
            case=progress.case,
            state=progress.state,
            events=progress.events,
            killed=self._killed.get(progress.case.name),
            doing=progress.doing,
            trouble=trouble,
        )
        try:
            async with asyncio.timeout(READ_BACK_S):
                return await self._read_back(progress, outcome)
        except (TimeoutError, ApiCallError) as error:
            also = f"the task could not be read back: {error or 'no answer'}"
            return msgspec.structs.replace(outcome, trouble=f"{trouble}; {also}" if trouble else also)

    async def _submit(self, progress: TaskProgress, repository: Path, timeout_s: float) -> None:
        task = await self._client.tasks.submit(
            NewTask(
                objective=progress.case.objective,
                repo=NewRepo(url=repository.as_uri()),
                package=PACKAGE,
                model=self._models[progress.case.name],
                test_command=TEST_COMMAND,
                timeout_s=max(1.0, round(timeout_s)),
                labels={"demo": progress.case.name},
            )
        )
        progress.task_id, progress.state = task.task_id, task.state
        self._view.add_line(progress.case.name, f"submitted as {task.task_id}")

    async def _follow(self, progress: TaskProgress) -> None:
        """Read the task's feed to its end; kill the first attempt's worker after `kill_after_actions` actions."""
        async with aclosing(self._client.tasks.events(progress.task_id)) as feed:
            async for sent in feed:
                if sent.name == "reset":
                    progress.reset()
                event = sent.event
                if event is None:
                    continue
                if line := progress.add_event(event):
                    self._view.add_line(progress.case.name, line)
                if progress.case.name not in self._killed and _must_kill(progress):
                    await self._kill(progress)

    async def _kill(self, progress: TaskProgress) -> None:
        """Kill the worker process with SIGKILL and without a request to the stack, to simulate a failed machine.

        The gateway may record the pid after the worker's first events. Then the next event kills the worker.
        """
        sandbox = await self._client.sandboxes.get(progress.sandbox_id)
        if sandbox.pid is None or sandbox.pid <= 1:
            return
        try:
            os.kill(sandbox.pid, signal.SIGKILL)
        except ProcessLookupError:
            raise ProcessLookupError(f"the worker with pid {sandbox.pid} ended before the demo killed it") from None
        self._view.add_line(progress.case.name, f"worker {sandbox.pid} is killed with -9")
        self._killed[progress.case.name] = KilledWorker(
            sandbox_id=sandbox.sandbox_id, epoch=sandbox.epoch, pid=sandbox.pid, at=self._now(), events=progress.events
        )

    async def _read_back(self, progress: TaskProgress, outcome: CaseOutcome) -> CaseOutcome:
        if not progress.task_id:
            return outcome
        task = await self._client.tasks.get(progress.task_id)
        outcome = msgspec.structs.replace(outcome, task=task)
        report = await self._client.tasks.report(progress.task_id)
        verdicts = [await self._client.sandboxes.verify(attempt.sandbox_id) for attempt in outcome.attempts]
        return msgspec.structs.replace(
            outcome,
            findings=report.findings,
            interventions=report.interventions,
            verdicts=verdicts,
            events=sum(verdict.events for verdict in verdicts),
        )


def _must_kill(progress: TaskProgress) -> bool:
    after = progress.case.kill_after_actions
    return after is not None and progress.epoch == 1 and progress.actions >= after
