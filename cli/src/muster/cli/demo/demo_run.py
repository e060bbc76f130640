"""Runs the demo once: starts the stack, runs the tasks, tests their diffs, prints the report and stops the stack."""

import asyncio
import functools
import os
import shutil
import signal
import sys
import tempfile
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from muster.cli.commands.stack.isolation_option import sandbox_isolation, warn_if_not_isolated
from muster.cli.commands.stack.provider_option import ProviderChoice, provider_environment, provider_isolation
from muster.cli.commands.stack.run_stack import preloading
from muster.cli.commands.stack.start_view import progress_text
from muster.cli.console.output import Exit, OutputFormat, emit, say
from muster.cli.demo import summary
from muster.cli.demo.cases import BUGFIX, CASES, DEADLINE_S, PROVIDER, REAL_MODEL_DEADLINE_S, SCRIPTS
from muster.cli.demo.model_environment import DemoModel, demo_environment
from muster.cli.demo.progress_view import DemoScreen, ProgressLines, ProgressView
from muster.cli.demo.proof import prove
from muster.cli.demo.report import CaseOutcome, Report, StackReport, report
from muster.cli.demo.repositories import NoRepositoryError, make_repository
from muster.cli.demo.task_runner import DemoTaskRunner
from muster.client import AFTER_CUTS_ONLY, AsyncMuster
from muster.common.clock import utc_now
from muster.common.faults import Fault
from muster.common.model_entries import KINDS
from muster.common.model_keys import provider_of
from muster.common.supervision import until_told_to_stop
from muster.embedded.config import StackConfig
from muster.embedded.part_supervisor import StackFailedError
from muster.embedded.processes import ExitedError
from muster.embedded.stack import Stack
from muster.embedded.start_progress import PartProgress
from muster.embedded.task_groups import raise_first_error
from muster.shim.protocol import IsolationChoice

_EXPLAINED = (StackFailedError, ExitedError, NoRepositoryError, Fault, OSError, TimeoutError)
"""Errors whose text explains the failure to the user; any other error is a bug and shows its traceback."""
TICK_S = 0.5
"""Seconds between two calls of the view's `tick`."""
SUMMARY_COLUMNS = 120
"""Width of the summary if stdout is no terminal and COLUMNS is not set."""


class DemoRun:
    """One run of the demo with the options of `muster demo`. Call `run` once."""

    def __init__(
        self,
        *,
        model: DemoModel | None,
        form: OutputFormat,
        keep: bool,
        isolation: IsolationChoice = "auto",
        provider: ProviderChoice | None = None,
    ) -> None:
        self._sandboxes: ProviderChoice | None = provider
        self._model, self._keep = model, keep
        self._isolation: IsolationChoice = isolation
        self._form: OutputFormat = form
        self._cases = (BUGFIX,) if model else CASES
        self._models = {case.name: model.name if model else f"{PROVIDER}/{case.name}" for case in self._cases}
        self._provider = _provider(model) if model else PROVIDER
        self._deadline_s = REAL_MODEL_DEADLINE_S if model else DEADLINE_S

    async def run(self) -> Exit:
        """Run the demo and return its exit code; SIGTERM and SIGINT stop all processes of the demo."""
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: this and this.cancel())
        try:
            with tempfile.TemporaryDirectory(prefix="muster-demo-", ignore_cleanup_errors=True) as root:
                return await self._run(Path(root))
        except _EXPLAINED as error:
            say(f"muster: the demo failed: {error or type(error).__name__}")
            return Exit.FAILURE
        except CancelledError:
            say("muster: interrupted; all processes of the demo are stopped.")
            return Exit.INTERRUPTED

    async def _run(self, root: Path) -> Exit:
        begin_s = asyncio.get_running_loop().time()
        warn_if_not_isolated(self._isolation)
        async with AsyncExitStack() as until_end:
            async with self._shown() as view:
                view.add_line("demo", "the repositories of the tasks are made")
                repositories = {case.name: await make_repository(case, root / "repos") for case in self._cases}
                view.add_line("stack", "NATS, PostgreSQL, the shim and four services start")
                listener = functools.partial(_add_progress, view)
                variables = until_end.enter_context(provider_environment(self._sandboxes, root / "double"))
                stack = await until_end.enter_async_context(
                    Stack(preloading(self._config(root, variables)), listener=listener)
                )
                ready_s = asyncio.get_running_loop().time() - begin_s
                isolation = sandbox_isolation(stack.ready)
                facts = f"ready after {ready_s:.1f} s, {len(stack.pids)} processes, isolation {isolation}"
                view.add_line("stack", facts)
                outcomes = await self._run_tasks(stack, view, repositories, begin_s)
                view.add_line("proof", "each diff is applied to a fresh clone")
                outcomes = await _with_proofs(outcomes, repositories, root / "proofs")
            result = report(
                outcomes,
                provider=self._provider,
                seconds=asyncio.get_running_loop().time() - begin_s,
                stack=StackReport(ready_s=round(ready_s, 3), restarts=stack.restarts, isolation=isolation),
            )
            self._print(result)
            if not result.ok:
                _copy_logs(Path(stack.ready.data_dir))
            if self._keep:
                await _wait_for_stop(stack)
            else:
                say("The stack of the demo stops.")
        return Exit.OK if result.ok else Exit.FAILURE

    async def _run_tasks(
        self, stack: Stack, view: ProgressView, repositories: dict[str, Path], begin_s: float
    ) -> list[CaseOutcome]:
        ready = stack.ready
        async with AsyncMuster(ready.api_url, ready.admin_key, retries=AFTER_CUTS_ONLY) as client:
            ends_at_s = begin_s + self._deadline_s
            runner = DemoTaskRunner(client, view, models=self._models, ends_at_s=ends_at_s, now=utc_now)
            return await runner.run(self._cases, repositories)

    def _config(self, root: Path, variables: Mapping[str, Mapping[str, str]]) -> StackConfig:
        return StackConfig(
            ephemeral=True,
            scripts_dirs=(SCRIPTS,),
            repo_roots=(root / "repos",),
            isolation=self._isolation,
            provider_isolation=provider_isolation(self._sandboxes),
            env=variables,
            user_env=demo_environment(os.environ, self._model),
        )

    @asynccontextmanager
    async def _shown(self) -> AsyncGenerator[ProgressView]:
        """Show the progress of the demo, and tell the view twice a second that the demo still works."""
        with self._view() as view, raise_first_error():
            async with asyncio.TaskGroup() as tasks:
                ticker = tasks.create_task(_tick(view))
                try:
                    yield view
                finally:
                    ticker.cancel()

    def _view(self) -> ProgressView:
        console, now = Console(stderr=True, highlight=False), asyncio.get_running_loop().time
        if not console.is_terminal:
            return ProgressLines(console, now)
        return DemoScreen(console, now, self._model.name if self._model else "scripted model, no network")

    def _print(self, result: Report) -> None:
        if self._form == "name":
            for task in result.tasks:
                if task.task_id:
                    sys.stdout.write(f"{task.task_id}\n")
        elif self._form != "table":
            emit(result, self._form)
        else:
            console = Console(highlight=False)
            if not console.is_terminal and "COLUMNS" not in os.environ:
                console.width = SUMMARY_COLUMNS
            summary.show(result, console)


def _provider(model: DemoModel) -> str:
    return KINDS[model.entry.kind].provider if model.entry else provider_of(model.name)


def _add_progress(view: ProgressView, progress: PartProgress) -> None:
    if (text := progress_text(progress)) and progress.state != "stopped":
        view.add_line("stack", text)


async def _tick(view: ProgressView) -> None:
    while True:
        view.tick()
        await asyncio.sleep(TICK_S)


async def _with_proofs(outcomes: list[CaseOutcome], repositories: dict[str, Path], clones: Path) -> list[CaseOutcome]:
    """Test the diff of each task in a separate clone, all at the same time; return outcomes with test results."""
    async with asyncio.TaskGroup() as tasks:
        proofs = [
            tasks.create_task(
                prove(
                    repositories[outcome.case.name],
                    (outcome.task and outcome.task.diff) or "",
                    clones / outcome.case.name,
                )
            )
            for outcome in outcomes
        ]
    return [
        msgspec.structs.replace(outcome, proof=proof.result()) for outcome, proof in zip(outcomes, proofs, strict=True)
    ]


def _copy_logs(data_dir: Path) -> None:
    """Copy the logs of the stack's processes to a new directory, because the data directory is deleted at the end."""
    copy = Path(tempfile.mkdtemp(prefix="muster-demo-logs-"))
    shutil.copytree(data_dir / "logs", copy, dirs_exist_ok=True)
    say(f"The logs of the stack's processes are in {copy}.")


async def _wait_for_stop(stack: Stack) -> None:
    """Print the commands that call the stack, and wait for a stop signal.

    The API key is not printed, because every `muster` command reads the key from `ready.json` in the data directory.
    """
    ready = stack.ready
    say(f"The stack keeps running: API {ready.api_url}. In another shell:")
    say(f"  export MUSTER_DATA_DIR={ready.data_dir}\n  muster task list\nCtrl-C stops it.")
    await until_told_to_stop()
    say("Stopping …")
