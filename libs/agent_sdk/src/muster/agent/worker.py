"""The worker process of a sandbox: runs one agent on one task, sends its events and heartbeats, and reads its inbox.

The result is posted only after the gateway has acknowledged every event, and contains the seq after the last event. If
the log expects another seq, the worker sends the missing events and posts the result again. If the process dies at any
line before `FINISHED`, the sandbox log has no result. The next launch continues after the last event on disk.

    run ------------- ends --> report: drain the outbox, post the result --> FINISHED (0)
     |--- task's timeout_s --> stop the agent, report the error "timeout" --> FINISHED (0)
     |------------ SIGTERM --> stop the agent, drain the outbox for 2 s ----> TERMINATED (143)
     +-- 410, 4xx or error --> no report -----------------------------------> FENCED, REFUSED, …
"""

import asyncio
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.base import AgentFactory, Context, Emit
from muster.agent.exit_codes import EpochFenced, ExitCode, LogBehind, Rejected, force_exit_after
from muster.agent.gateway_client import GatewayClient
from muster.agent.inbox import Inbox
from muster.agent.log_output import emit_line
from muster.agent.outbox import Diverged, Outbox
from muster.agent.proxy_relay import proxy_relay
from muster.agent.readiness import report_ready
from muster.agent.recorded_events import RecordedEvents, record_skipped_steps
from muster.agent.sandbox_heartbeat import SandboxHeartbeat
from muster.agent.task_run import TaskContext
from muster.agent.workspace import GitFailed, NoSuchRef, Workspace
from muster.agent.workspace_record import WorkspaceRecord
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.worker_api import Handoff, PostFinished

MAX_DIFF_BYTES = 900 << 10
"""Most bytes of the diff as JSON, where a line end takes two bytes: the result must fit into one frame."""
_MOST_TEXT = 8 << 10

STOP_GRACE_S = 2.5
FLUSH_GRACE_S = 2.0
EXIT_GRACE_S = 2.0

logger = logging.getLogger(__name__)


class Worker:
    """Runs one agent on one task. All asyncio tasks that it starts end before `run` returns."""

    def __init__(self, handoff: Handoff, factory: AgentFactory, gateway: GatewayClient) -> None:
        self._handoff, self._gateway = handoff, gateway
        Path(handoff.state_dir).mkdir(parents=True, exist_ok=True)
        self._new_events, changed = AutoResetEvent(), AutoResetEvent()
        self._activity = AgentActivity(changed, utc_now)
        self._emit_target: Emit = emit_line
        self._agent = factory(self._context())
        context = TaskContext(
            handoff=handoff, activity=self._activity, announce=self._announce, gateway=gateway, now=utc_now
        )
        self._run = self._agent.task(context)
        self._emit_target = self._run.emit
        self._step_skipped = AutoResetEvent()
        self._record = WorkspaceRecord(handoff, skipped=self._step_skipped)
        self._outbox = Outbox(
            RecordedEvents(self._run.events, self._record),
            gateway,
            self._new_events,
            epoch=handoff.epoch,
            cursor=Path(handoff.state_dir) / "outbox.cursor",
        )
        self._inbox = Inbox(gateway, self._run.deliver, epoch=handoff.epoch, delivered=self._run.delivered, now=utc_now)
        self._heartbeat = SandboxHeartbeat(self._activity, changed, gateway, self._outbox, handoff)
        self._workspace = Workspace(handoff)
        self._stop_requested = asyncio.Event()
        self._agent_stopped = False

    def stop(self) -> None:
        """Request the end of the run without a result. This is the handler of SIGTERM."""
        self._stop_requested.set()

    async def run(self) -> ExitCode:
        """Run the task and report its result. Raises `EpochFenced`, `Rejected` and bugs in an ExceptionGroup."""
        try:
            async with asyncio.TaskGroup() as tasks:
                outbox = tasks.create_task(self._outbox.run())
                heartbeat = tasks.create_task(self._heartbeat.run())
                recorder = tasks.create_task(record_skipped_steps(self._record, self._step_skipped))
                result = await self._run_until_end(tasks)
                outbox.cancel()
                recorder.cancel()
                code = await (self._report(result) if result else self._flush_events())
                heartbeat.cancel()
            return code
        finally:
            await self._stop_agent()

    def _context(self) -> Context:
        handoff = self._handoff
        config = handoff.metadata.get("config")
        return Context(
            agent_id=handoff.agent_id,
            name=handoff.package,
            agent_type=handoff.package,
            agent_version="",
            mode="sandbox",
            config=cast("dict[str, Any]", config) if isinstance(config, dict) else {},
            state_dir=Path(handoff.state_dir),
            workspace=Path(handoff.workspace),
            activity=self._activity,
            emit=self._emit,
            now=utc_now,
        )

    def _announce(self) -> None:
        report_ready()
        self._new_events()

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        self._emit_target(kind, fields)

    async def _run_until_end(self, tasks: asyncio.TaskGroup) -> Finished | None:
        """Return the agent's result, or None if the worker was stopped before it had a result."""
        run = tasks.create_task(self._attempt())
        stop = tasks.create_task(self._stop_requested.wait())
        inbox = tasks.create_task(self._inbox.run())
        done, _ = await asyncio.wait(
            {run, stop}, timeout=self._handoff.time_limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()
        inbox.cancel()
        if run in done:
            return run.result()
        waited = self._waiting_for_the_model()
        self._activity.show(state="stopping")
        await self._stop_agent()
        await asyncio.wait({run}, timeout=STOP_GRACE_S)
        run.cancel()
        if done:
            return None
        limit = f"the limit of {self._handoff.time_limit_s:g} s (`muster task submit --timeout` sets a higher one)"
        why = f"the attempt took longer than {limit}{waited}"
        return Finished(outcome="error", error=why, limit="time")

    def _waiting_for_the_model(self) -> str:
        """Return the end of a sentence about a model call that has no answer yet; an empty string if there is none."""
        if self._activity.busy not in ("model", "model_retry"):
            return ""
        waited_s = (utc_now() - self._activity.since).total_seconds()
        return f"; at the end it had waited {waited_s:.0f} s for an answer of the model {self._handoff.model}"

    async def _stop_agent(self) -> None:
        """Stop the run and the agent, within 2.5 s. May be called twice. The agent's own `stop` is called only once."""
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self._run.stop()
                if not self._agent_stopped:
                    self._agent_stopped = True
                    await self._agent.stop()
        except TimeoutError:
            logger.warning("agent of a task exceeded its stop deadline")
        except Exception:  # The result is already decided. A failing `stop` must not change it.
            logger.exception("agent of a task raised an error in stop")

    async def _attempt(self) -> Finished:
        try:
            self._activity.show(busy="tool")
            base = await self._workspace.prepare()
            await asyncio.to_thread(self._record.begin, base)
            self._activity.show(busy="none")
            await self._agent.start()
            return await self._run.run()
        except (EpochFenced, Rejected):
            raise
        except NoSuchRef as error:
            return Finished(outcome="refused", error=str(error))
        except GitFailed as error:
            return Finished(outcome="error", error=f"workspace: {error}")
        except Exception as error:  # A bug in the agent is reported as the result of the run.
            logger.exception("agent of a task raised an error")
            return Finished(outcome="error", error=self._without_token(f"{type(error).__name__}: {error}"))

    async def _report(self, result: Finished) -> ExitCode:
        """Send the last events and then the result. Return when the gateway has stored both."""
        self._activity.show(state="stopping", busy="none")
        final = await self._with_diff(result)
        commit = await asyncio.to_thread(self._record.conclude, self._outbox.written)
        final = msgspec.structs.replace(final, workspace=commit)
        while True:
            await self._outbox.drain()
            try:
                next_seq = self._outbox.acked + 1
                await self._gateway.finished(PostFinished(epoch=self._handoff.epoch, next_seq=next_seq, result=final))
            except LogBehind as behind:
                self._outbox.rewind(behind.next_seq)
            else:
                return ExitCode.FINISHED

    async def _flush_events(self) -> ExitCode:
        """Send the events on disk for at most 2 s. The next launch sends the remaining events."""
        try:
            async with asyncio.timeout(FLUSH_GRACE_S):
                await self._outbox.drain()
        except TimeoutError:
            unsent = self._outbox.written - self._outbox.acked
            logger.warning("worker ended with unsent events", extra={"fields": {"unsent": unsent}})
        return ExitCode.TERMINATED

    async def _with_diff(self, result: Finished) -> Finished:
        result = msgspec.structs.replace(
            result,
            summary=_storable(result.summary[:_MOST_TEXT]),
            error=result.error and _storable(result.error[:_MOST_TEXT]),
        )
        try:
            diff = _storable(await self._workspace.diff())
        except (GitFailed, OSError) as error:
            return msgspec.structs.replace(result, error=result.error or f"the diff could not be made: {error}")
        size = len(encode(diff))
        if size > MAX_DIFF_BYTES:
            why = f"the diff was left out: it has {size} bytes, and at most {MAX_DIFF_BYTES} are stored"
            return msgspec.structs.replace(result, error=result.error or why)
        return msgspec.structs.replace(result, diff=diff, base=self._workspace.base())

    def _without_token(self, text: str) -> str:
        return text.replace(self._handoff.token, "[token]")


async def run_worker(handoff: Handoff, factory: AgentFactory) -> ExitCode:
    """Run the worker process that `handoff` describes, and return the exit code of the process."""
    code = ExitCode.BROKEN
    try:
        with proxy_relay(handoff.egress_socket, handoff.token):
            async with GatewayClient(handoff) as gateway:
                worker = Worker(handoff, factory, gateway)
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
                code = await worker.run()
    except* Diverged as errors:
        logger.error("sandbox log and disk diverged", extra=_why(errors))  # noqa: TRY400 - a traceback adds nothing
    except* Rejected as errors:
        logger.error("gateway refused the worker", extra=_why(errors))  # noqa: TRY400 - as above
        code = max(error.exit_code for error in _leaves(errors) if isinstance(error, Rejected))
    # `EpochFenced` is handled last, because its exit code replaces those of other errors.
    except* EpochFenced as errors:
        logger.warning("gateway has ended the epoch of the worker", extra=_why(errors))
        code = ExitCode.FENCED
    finally:
        force_exit_after(code, EXIT_GRACE_S)
    return code


def _storable(text: str) -> str:
    """Return the text without NUL and lone surrogates, which PostgreSQL and JSON cannot store."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _why(errors: ExceptionGroup[Exception]) -> dict[str, object]:
    return {"fields": {"why": [str(error) for error in _leaves(errors)]}}


def _leaves(errors: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(cast("ExceptionGroup[Exception]", error))
        else:
            yield error
