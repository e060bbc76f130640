"""A process-mode agent from handoff to exit code: it idles until it is told something."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.base import Agent, AgentFactory, AgentMessage, Context
from muster.agent.exits import ExitCode, exit_anyway
from muster.agent.mailbox import Mailbox, MessageOutcome
from muster.agent.nats_session import NatsSession
from muster.agent.output import emit_line
from muster.agent.process_metrics import ProcessMetrics, health_of
from muster.common.clock import rfc3339, utc_now
from muster.common.contracts.agent_wire import AgentOrder, ProcessHandoff
from muster.common.faults import InvalidMessage

ANSWER_WITHIN_S = 1.5
"""A message that takes longer is answered `accepted`, for the manager waits two seconds; what became of it is told on
`agent.<id>.response`."""
MESSAGE_GRACE_S, STOP_GRACE_S, LEAVE_GRACE_S, EXIT_GRACE_S = 1.0, 2.0, 1.0, 4.7
"""All together less than the five seconds that a package has by default."""

logger = logging.getLogger(__name__)


class MessageParams(msgspec.Struct):
    """The `params` of a `message`."""

    message_id: str
    text: str
    sender: str = "operator"
    urgent: bool = False


class ProcessAgent:
    """One process, and in it one agent after another: `restart` makes a new one."""

    def __init__(self, handoff: ProcessHandoff, factory: AgentFactory, tasks: asyncio.TaskGroup) -> None:
        self._handoff, self._factory, self._tasks = handoff, factory, tasks
        changed = AutoResetEvent()
        self._activity = AgentActivity(changed, utc_now, state="waiting")
        self._agent: Agent = factory(self._context())
        self._mailbox = Mailbox(self._heard, self._activity, tasks)
        self._gauges = ProcessMetrics(self._counted)
        self._wish = asyncio.Event()
        self._code: ExitCode | None = None
        self._restarts = 0
        self.presence = NatsSession(
            handoff,
            self._activity,
            changed,
            counted=self._counted,
            measured=lambda: self._gauges.read(self._agent.metrics),
            commands={"stop": self._stop, "restart": self._restart, "status": self._status, "message": self._message},
            queries={"health": self._health, "metrics": self._metrics},
        )

    def told_to_stop(self) -> None:
        """The signal handler, and the `stop` order."""
        self._ends(ExitCode.FINISHED)

    async def run(self) -> ExitCode:
        """Until told to stop, or until the agent cannot start."""
        while self._code is None:
            await self._until_wished()
            self._activity.show(state="waiting" if self._code is None else "stopping")
            await self._mailbox.shut(MESSAGE_GRACE_S, for_good=self._code is not None)
            await self._agent_stops()
            if self._code is None:
                self._wish.clear()
                self._restarts += 1
                self._agent = self._factory(self._context())
        return self._code

    async def _until_wished(self) -> None:
        """Starts the agent, and lets it answer until another wish comes, which cuts a long start short."""
        start = self._tasks.create_task(self._agent_starts())
        await self._wish.wait()
        start.cancel()
        await asyncio.wait({start})

    async def _agent_starts(self) -> None:
        try:
            await self._agent.start()
        except Exception:
            logger.exception("the agent could not start")
            self._ends(ExitCode.BROKEN)
        else:
            self._activity.show(state="idle")
            self._mailbox.open()
            logger.info("started", extra={"fields": {"launch": self._handoff.launch, "restarts": self._restarts}})

    def _ends(self, code: ExitCode) -> None:
        exit_anyway(code, EXIT_GRACE_S)
        self._code = code
        self._wish.set()

    async def _agent_stops(self) -> None:
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self._agent.stop()
        except TimeoutError:
            logger.warning("the agent does not stop")
        except Exception:  # it ends all the same
            logger.exception("the agent failed to stop")

    async def _heard(self, told: AgentMessage) -> str | None:
        """By the agent of now: a restart makes another one."""
        return await self._agent.on_message(told)

    async def _stop(self, _: AgentOrder) -> dict[str, Any]:
        self.told_to_stop()
        return {"state": "stopping"}

    async def _restart(self, _: AgentOrder) -> dict[str, Any]:
        self._wish.set()
        return {"state": "restarting", "restarts": self._restarts + 1}

    async def _status(self, _: AgentOrder) -> dict[str, Any]:
        told, activity = self._handoff, self._activity
        return {
            "name": told.name,
            "type": told.agent_type,
            "version": told.agent_version,
            "launch": told.launch,
            "pid": os.getpid(),
            "state": activity.state,
            "busy": activity.busy,
            "since": rfc3339(activity.since),
            "uptime_s": self._gauges.uptime_s,
            "restarts": self._restarts,
            "messages": self._counted(),
        }

    async def _health(self, _: AgentOrder) -> dict[str, Any]:
        return await health_of(self._agent.health)

    async def _metrics(self, _: AgentOrder) -> dict[str, Any]:
        return dict(await self._gauges.read(self._agent.metrics))

    async def _message(self, order: AgentOrder) -> dict[str, Any]:
        try:
            asked = msgspec.convert(order.params, MessageParams)
        except msgspec.ValidationError as error:
            fault = InvalidMessage.at(error, MessageParams)
            raise InvalidMessage(str(fault), field=f"$.params{(fault.field or '$')[1:]}") from None
        told = AgentMessage(message_id=asked.message_id, text=asked.text, sender=asked.sender, urgent=asked.urgent)
        task = self._mailbox.take(told)
        done, _ = await asyncio.wait({task}, timeout=ANSWER_WITHIN_S)
        if done:
            return _settled(asked.message_id, task.result())
        self._tasks.create_task(self._tell_later(asked.message_id, task))
        return {"message_id": asked.message_id, "state": "accepted", "answer": None}

    async def _tell_later(self, message_id: str, answered: Awaitable[MessageOutcome]) -> None:
        outcome = await answered
        if fault := outcome.fault:
            await self.presence.tell("message", fault)
        else:
            await self.presence.tell("message", _settled(message_id, outcome))

    def _counted(self) -> dict[str, Any]:
        box = self._mailbox
        return {"waiting": box.waiting, "answered": box.answered, "failed": box.failed}

    def _context(self) -> Context:
        told = self._handoff
        state_dir = Path(told.state_dir)
        workspace = state_dir / "workspace"
        workspace.mkdir(parents=True, exist_ok=True)
        return Context(
            agent_id=told.agent_id,
            name=told.name,
            agent_type=told.agent_type,
            agent_version=told.agent_version,
            mode="process",
            config=told.config,
            state_dir=state_dir,
            workspace=workspace,
            activity=self._activity,
            emit=emit_line,
            now=utc_now,
        )


def _settled(message_id: str, outcome: MessageOutcome) -> dict[str, Any]:
    """What became of a message. Raises the fault, if it was one."""
    if outcome.fault:
        raise outcome.fault
    return {"message_id": message_id, "state": "answered", "answer": outcome.answer}


async def run_process_agent(handoff: ProcessHandoff, factory: AgentFactory) -> ExitCode:
    """The whole life of a process-mode agent. 0 when it was told to stop, and only then."""
    code = ExitCode.BROKEN
    try:
        async with asyncio.TaskGroup() as tasks:
            resident = ProcessAgent(handoff, factory, tasks)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, resident.told_to_stop)
            presence = tasks.create_task(resident.presence.run())
            code = await resident.run()
            resident.presence.leave()
            await asyncio.wait({presence}, timeout=LEAVE_GRACE_S)
            presence.cancel()
    except* Exception:
        logger.exception("the agent failed")
        exit_anyway(code, EXIT_GRACE_S)
    return code
