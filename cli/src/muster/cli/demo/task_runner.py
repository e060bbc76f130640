"""Runs the cases side by side through the HTTP API, does the killing, and reads back what became of each."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from muster.cli.client.api import ApiClient
from muster.cli.client.api_call_error import ApiCallError
from muster.cli.demo.cases import PACKAGE, TEST_COMMAND, Case
from muster.cli.demo.progress_view import ProgressView
from muster.cli.demo.report import CaseOutcome, KilledWorker
from muster.cli.demo.task_progress import TaskProgress
from muster.common.clock import Clock

READ_BACK_S = 5.0
"""For reading back one task: its parts are not asked longer, so that a late failure is still told in time."""


class Drive:
    """One run of some cases. `ends_at_s` is on the event loop's clock."""

    def __init__(
        self, client: ApiClient, view: ProgressView, *, models: Mapping[str, str], ends_at_s: float, now: Clock
    ) -> None:
        self._client, self._view, self._models = client, view, models
        self._ends_at_s, self._now = ends_at_s, now
        self._killed: dict[str, KilledWorker] = {}

    async def run(self, cases: Sequence[Case], repositories: Mapping[str, Path]) -> list[CaseOutcome]:
        """All of them to their ends, or to the deadline. Nothing raises: what went wrong is in the outcome."""
        stories = [TaskProgress(case) for case in cases]
        self._view.watch(stories)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._one(story, repositories[story.case.name])) for story in stories]
        return [task.result() for task in running]

    async def _one(self, story: TaskProgress, repository: Path) -> CaseOutcome:
        trouble = ""
        left_s = max(0.0, self._ends_at_s - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout_at(self._ends_at_s):
                await self._submit(story, repository, left_s)
                await self._follow(story)
        except TimeoutError:
            trouble = f"its end was not seen in time (it had {left_s:.0f} s)"
        except (ApiCallError, ProcessLookupError) as error:
            trouble = str(error)
        outcome = CaseOutcome(
            case=story.case,
            state=story.state,
            events=story.events,
            killed=self._killed.get(story.case.name),
            doing=story.doing,
            trouble=trouble,
        )
        try:
            async with asyncio.timeout(READ_BACK_S):
                return await self._read_back(story, outcome)
        except (TimeoutError, ApiCallError) as error:
            also = f"it could not be read back: {error or 'no answer'}"
            return msgspec.structs.replace(outcome, trouble=f"{trouble}; {also}" if trouble else also)

    async def _submit(self, story: TaskProgress, repository: Path, timeout_s: float) -> None:
        task = await self._client.submit(
            story.case.objective,
            repo={"url": repository.as_uri()},
            package=PACKAGE,
            model=self._models[story.case.name],
            test_command=TEST_COMMAND,
            timeout_s=max(1.0, round(timeout_s)),
            labels={"demo": story.case.name},
        )
        story.task_id, story.state = task.task_id, task.state
        self._view.tell(story.case.name, f"submitted as {task.task_id}")

    async def _follow(self, story: TaskProgress) -> None:
        """To the feed's end. The first attempt's worker dies on the way, where the case says so."""
        async with aclosing(self._client.events(story.task_id)) as feed:
            async for sent in feed:
                if sent.name == "reset":
                    story.begin()
                event = sent.event
                if event is None:
                    continue
                if line := story.take(event):
                    self._view.tell(story.case.name, line)
                if story.case.name not in self._killed and _due(story):
                    self._killed[story.case.name] = await self._kill(story)

    async def _kill(self, story: TaskProgress) -> KilledWorker:
        """`kill -9`, as a machine would lose it: nobody is told."""
        sandbox = await self._client.sandbox(story.sandbox_id)
        if sandbox.pid is None or sandbox.pid <= 1:
            raise ProcessLookupError(f"the worker of sandbox {story.sandbox_id} has no pid to kill")
        try:
            os.kill(sandbox.pid, signal.SIGKILL)
        except ProcessLookupError:
            raise ProcessLookupError(f"worker {sandbox.pid} was gone before it could be killed") from None
        self._view.tell(story.case.name, f"worker {sandbox.pid} is killed with -9")
        return KilledWorker(
            sandbox_id=sandbox.sandbox_id, epoch=sandbox.epoch, pid=sandbox.pid, at=self._now(), events=story.events
        )

    async def _read_back(self, story: TaskProgress, outcome: CaseOutcome) -> CaseOutcome:
        if not story.task_id:
            return outcome
        task = await self._client.get(story.task_id)
        outcome = msgspec.structs.replace(outcome, task=task)
        report = await self._client.report(story.task_id)
        verdicts = [await self._client.verify(attempt.sandbox_id) for attempt in outcome.attempts]
        return msgspec.structs.replace(
            outcome,
            findings=report.findings,
            interventions=report.interventions,
            verdicts=verdicts,
            events=sum(verdict.events for verdict in verdicts),
        )


def _due(story: TaskProgress) -> bool:
    after = story.case.kill_after_actions
    return after is not None and story.epoch == 1 and story.actions >= after
