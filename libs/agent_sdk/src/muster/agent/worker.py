"""One worker in a sandbox: an agent's run of a task between outbox, inbox and beat, from handoff to exit code."""

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
from muster.agent.exits import EpochFenced, ExitCode, LogBehind, Rejected, exit_anyway
from muster.agent.gateway_client import GatewayClient
from muster.agent.inbox import Inbox
from muster.agent.outbox import Diverged, Outbox
from muster.agent.output import emit_line
from muster.agent.sandbox_heartbeat import SandboxHeartbeat
from muster.agent.task_run import TaskContext
from muster.agent.workspace import GitFailed, NoSuchRef, Workspace
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.doors import Handoff, PostFinished
from muster.common.contracts.sandbox_log import Finished

MAX_DIFF_BYTES = 900 << 10
"""As JSON, in which a line end is two bytes: the account must fit into one frame."""
_MOST_WORDS = 8 << 10

STOP_GRACE_S = 2.5
FLUSH_GRACE_S = 2.0
EXIT_GRACE_S = 2.0

logger = logging.getLogger(__name__)


class Worker:
    """Runs one agent once. Everything it owns ends with `run`."""

    def __init__(self, handoff: Handoff, factory: AgentFactory, gateway: GatewayClient) -> None:
        self._handoff, self._gateway = handoff, gateway
        Path(handoff.state_dir).mkdir(parents=True, exist_ok=True)
        self._events_came, changed = AutoResetEvent(), AutoResetEvent()
        self._activity = AgentActivity(changed, utc_now)
        self._emits: Emit = emit_line
        self._agent = factory(self._context())
        context = TaskContext(
            handoff=handoff, activity=self._activity, announce=self._events_came, gateway=gateway, now=utc_now
        )
        self._run = self._agent.task(context)
        self._emits = self._run.emit
        self._outbox = Outbox(
            self._run.events,
            gateway,
            self._events_came,
            epoch=handoff.epoch,
            cursor=Path(handoff.state_dir) / "outbox.cursor",
        )
        self._inbox = Inbox(gateway, self._run.deliver, epoch=handoff.epoch, delivered=self._run.delivered, now=utc_now)
        self._heartbeat = SandboxHeartbeat(self._activity, changed, gateway, self._outbox, handoff)
        self._workspace = Workspace(handoff)
        self._told_to_stop = asyncio.Event()
        self._agent_stopped = False

    def stop(self) -> None:
        """The signal handler: the run ends in good order, unfinished."""
        self._told_to_stop.set()

    async def run(self) -> ExitCode:
        """The whole life. Raises `EpochFenced`, `Rejected` and bugs in an ExceptionGroup."""
        try:
            async with asyncio.TaskGroup() as tasks:
                outbox = tasks.create_task(self._outbox.run())
                heartbeat = tasks.create_task(self._heartbeat.run())
                result = await self._until_it_ends(tasks)
                outbox.cancel()
                code = await (self._report(result) if result else self._leave())
                heartbeat.cancel()
            return code
        finally:
            await self._stop_agent()

    def _context(self) -> Context:
        told = self._handoff
        config = told.metadata.get("config")
        return Context(
            agent_id=told.agent_id,
            name=told.package,
            agent_type=told.package,
            agent_version="",
            mode="sandbox",
            config=cast("dict[str, Any]", config) if isinstance(config, dict) else {},
            state_dir=Path(told.state_dir),
            workspace=Path(told.workspace),
            activity=self._activity,
            emit=self._emit,
            now=utc_now,
        )

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        self._emits(kind, fields)

    async def _until_it_ends(self, tasks: asyncio.TaskGroup) -> Finished | None:
        """The agent's account; None if told to stop before there was one."""
        run = tasks.create_task(self._attempt())
        told = tasks.create_task(self._told_to_stop.wait())
        inbox = tasks.create_task(self._inbox.run())
        done, _ = await asyncio.wait({run, told}, timeout=self._handoff.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        inbox.cancel()
        if run in done:
            return run.result()
        self._activity.show(state="stopping")
        await self._stop_agent()
        await asyncio.wait({run}, timeout=STOP_GRACE_S)
        run.cancel()
        return None if done else Finished(outcome="error", error="timeout")

    async def _stop_agent(self) -> None:
        """Twice is no harm: the agent itself is told once."""
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self._run.stop()
                if not self._agent_stopped:
                    self._agent_stopped = True
                    await self._agent.stop()
        except TimeoutError:
            logger.warning("the agent does not stop")
        except Exception:  # its work is done or given up: how it lets go changes nothing of that
            logger.exception("the agent failed to stop")

    async def _attempt(self) -> Finished:
        try:
            self._activity.show(busy="tool")
            await self._workspace.prepare()
            self._activity.show(busy="none")
            await self._agent.start()
            return await self._run.run()
        except (EpochFenced, Rejected):
            raise
        except NoSuchRef as error:
            return Finished(outcome="refused", error=str(error))
        except GitFailed as error:
            return Finished(outcome="error", error=f"workspace: {error}")
        except Exception as error:  # an agent's bug ends its run, not its account of it
            logger.exception("the agent failed")
            return Finished(outcome="error", error=self._without_token(f"{type(error).__name__}: {error}"))

    async def _report(self, result: Finished) -> ExitCode:
        """The last events, then the account of the run, until the gateway holds both."""
        self._activity.show(state="stopping", busy="none")
        account = await self._with_diff(result)
        while True:
            await self._outbox.drain()
            try:
                next_seq = self._outbox.acked + 1
                await self._gateway.finished(PostFinished(epoch=self._handoff.epoch, next_seq=next_seq, result=account))
            except LogBehind as behind:
                self._outbox.rewind(behind.next_seq)
            else:
                return ExitCode.FINISHED

    async def _leave(self) -> ExitCode:
        """What is on disk goes out if that is quick; a relaunch would send it otherwise."""
        try:
            async with asyncio.timeout(FLUSH_GRACE_S):
                await self._outbox.drain()
        except TimeoutError:
            left = self._outbox.written - self._outbox.acked
            logger.warning("left with unsent events", extra={"fields": {"unsent": left}})
        return ExitCode.TERMINATED

    async def _with_diff(self, result: Finished) -> Finished:
        result = msgspec.structs.replace(
            result,
            summary=_storable(result.summary[:_MOST_WORDS]),
            error=result.error and _storable(result.error[:_MOST_WORDS]),
        )
        try:
            diff = _storable(await self._workspace.diff())
        except (GitFailed, OSError) as error:
            return msgspec.structs.replace(result, error=result.error or f"no diff: {error}")
        size = len(encode(diff))
        if size > MAX_DIFF_BYTES:
            why = f"no diff: {size} bytes are over the limit of {MAX_DIFF_BYTES}"
            return msgspec.structs.replace(result, error=result.error or why)
        return msgspec.structs.replace(result, diff=diff)

    def _without_token(self, text: str) -> str:
        return text.replace(self._handoff.token, "[token]")


async def work(handoff: Handoff, factory: AgentFactory) -> ExitCode:
    """Does the task of a handoff."""
    code = ExitCode.BROKEN
    try:
        async with GatewayClient(handoff) as gateway:
            worker = Worker(handoff, factory, gateway)
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
            code = await worker.run()
    except* Diverged as errors:
        logger.error("log and disk disagree", extra=_why(errors))  # noqa: TRY400 - the reason is all
    except* Rejected as errors:
        logger.error("refused for good", extra=_why(errors))  # noqa: TRY400 - the reason is all
        code = max(error.exit_code for error in _leaves(errors) if isinstance(error, Rejected))
    except* EpochFenced as errors:  # last, for it outweighs the others
        logger.warning("the epoch has ended", extra=_why(errors))
        code = ExitCode.FENCED
    finally:
        exit_anyway(code, EXIT_GRACE_S)
    return code


def _storable(text: str) -> str:
    """Without what no database and no JSON takes: NUL, and halves of characters."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _why(errors: ExceptionGroup[Exception]) -> dict[str, object]:
    return {"fields": {"why": [str(error) for error in _leaves(errors)]}}


def _leaves(errors: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(cast("ExceptionGroup[Exception]", error))
        else:
            yield error
