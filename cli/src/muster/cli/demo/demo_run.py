"""One demo from the first process to the last word."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from asyncio import CancelledError
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from rich.console import Console

from muster.cli.client.api import ApiClient
from muster.cli.commands.stack.isolation_option import warn_of
from muster.cli.console.output import Exit, Form, emit, say
from muster.cli.demo import summary
from muster.cli.demo.cases import BUGFIX, CASES, DEADLINE_S, PROVIDER, REAL_MODEL_DEADLINE_S, SCRIPTS
from muster.cli.demo.model_environment import demo_environment, vendor
from muster.cli.demo.progress_view import DemoScreen, Lines, ProgressView
from muster.cli.demo.proof import prove
from muster.cli.demo.report import CaseOutcome, Report, StackReport, report
from muster.cli.demo.repositories import NoRepositoryError, make_repository
from muster.cli.demo.task_runner import Drive
from muster.common.clock import utc_now
from muster.common.faults import Fault
from muster.common.supervision import until_told_to_stop
from muster.embedded.config import StackConfig
from muster.embedded.processes import ExitedError
from muster.embedded.stack import Stack, StackFailedError
from muster.shim.protocol import IsolationChoice

_EXPLAINED = (StackFailedError, ExitedError, NoRepositoryError, Fault, OSError, TimeoutError)
"""Failures whose text says what happened."""
SUMMARY_COLUMNS = 120


class DemoRun:
    """What `muster demo` was asked for. `run` once."""

    def __init__(self, *, model: str | None, form: Form, keep: bool, isolation: IsolationChoice = "auto") -> None:
        self._model, self._keep = model, keep
        self._isolation: IsolationChoice = isolation
        self._form: Form = form
        self._cases = (BUGFIX,) if model else CASES
        self._models = {case.name: model or f"{PROVIDER}/{case.name}" for case in self._cases}
        self._provider = vendor(model) if model else PROVIDER
        self._deadline_s = REAL_MODEL_DEADLINE_S if model else DEADLINE_S

    async def run(self) -> Exit:
        """All of it; Ctrl-C stops everything that was started."""
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: this and this.cancel())
        try:
            with tempfile.TemporaryDirectory(prefix="muster-demo-", ignore_cleanup_errors=True) as place:
                return await self._run(Path(place))
        except _EXPLAINED as error:
            say(f"muster: the demo failed: {error or type(error).__name__}")
            return Exit.FAILURE
        except CancelledError:
            say("muster: interrupted; everything is stopped.")
            return Exit.INTERRUPTED

    async def _run(self, place: Path) -> Exit:
        begin_s = asyncio.get_running_loop().time()
        warn_of(self._isolation)
        async with AsyncExitStack() as open_until_the_end:
            with self._view() as view:
                repositories = {case.name: await make_repository(case, place / "repos") for case in self._cases}
                view.tell("stack", "NATS, PostgreSQL, the shim and four services start")
                stack = await open_until_the_end.enter_async_context(Stack(self._config(place)))
                ready_s = asyncio.get_running_loop().time() - begin_s
                view.tell(
                    "stack",
                    f"ready after {ready_s:.1f} s, {len(stack.pids)} processes, isolation {stack.ready.isolation}",
                )
                outcomes = await self._driven(stack, view, repositories, begin_s)
                view.tell("proof", "each diff is applied to a fresh clone")
                outcomes = await _proved(outcomes, repositories, place / "proofs")
            whole = report(
                outcomes,
                provider=self._provider,
                seconds=asyncio.get_running_loop().time() - begin_s,
                stack=StackReport(ready_s=round(ready_s, 3), restarts=stack.restarts, isolation=stack.ready.isolation),
            )
            self._print(whole)
            if not whole.ok:
                _keep_logs(Path(stack.ready.data_dir))
            if self._keep:
                await _wait(stack)
        return Exit.OK if whole.ok else Exit.FAILURE

    async def _driven(
        self, stack: Stack, view: ProgressView, repositories: dict[str, Path], begin_s: float
    ) -> list[CaseOutcome]:
        ready = stack.ready
        async with ApiClient(ready.api_url, ready.admin_key) as client:
            drive = Drive(client, view, models=self._models, ends_at_s=begin_s + self._deadline_s, now=utc_now)
            return await drive.run(self._cases, repositories)

    def _config(self, place: Path) -> StackConfig:
        return StackConfig(
            ephemeral=True,
            scripts_dirs=(SCRIPTS,),
            repo_roots=(place / "repos",),
            isolation=self._isolation,
            user_env=demo_environment(os.environ, self._model),
        )

    def _view(self) -> ProgressView:
        console, now = Console(stderr=True, highlight=False), asyncio.get_running_loop().time
        if not console.is_terminal:
            return Lines(console, now)
        return DemoScreen(console, now, self._model or "scripted model, no network")

    def _print(self, whole: Report) -> None:
        if self._form == "name":
            for task in whole.tasks:
                if task.task_id:
                    sys.stdout.write(f"{task.task_id}\n")
        elif self._form != "table":
            emit(whole, self._form)
        else:
            console = Console(highlight=False)
            # A pipe has no width.
            summary.show(whole, console if console.is_terminal else Console(highlight=False, width=SUMMARY_COLUMNS))


async def _proved(outcomes: list[CaseOutcome], repositories: dict[str, Path], place: Path) -> list[CaseOutcome]:
    async with asyncio.TaskGroup() as tasks:
        proofs = [
            tasks.create_task(
                prove(
                    repositories[outcome.case.name],
                    (outcome.task and outcome.task.diff) or "",
                    place / outcome.case.name,
                )
            )
            for outcome in outcomes
        ]
    return [
        msgspec.structs.replace(outcome, proof=proof.result()) for outcome, proof in zip(outcomes, proofs, strict=True)
    ]


def _keep_logs(data_dir: Path) -> None:
    """The stack's directory goes with it; what its parts said is what explains a failure."""
    kept = Path(tempfile.mkdtemp(prefix="muster-demo-logs-"))
    shutil.copytree(data_dir / "logs", kept, dirs_exist_ok=True)
    say(f"What each part of the stack said is kept in {kept}.")


async def _wait(stack: Stack) -> None:
    """The key stays in `ready.json`, where every muster command finds it."""
    ready = stack.ready
    say(f"The stack stays up: API {ready.api_url}. In another shell:")
    say(f"  export MUSTER_DATA_DIR={ready.data_dir}\n  muster task list\nCtrl-C stops it.")
    await until_told_to_stop()
    say("Stopping …")
