"""The process of a process-mode agent: keeps one agent running, and answers the manager's commands and queries.

The agent also runs without NATS. Meanwhile `NatsSession` tries to connect, and connects again after each loss. Messages
and the state of this object are in memory. An agent stores what must survive a crash in its `state_dir`.

    waiting --`start` returns--> idle --message--> running --answered--> idle
       | `start` raises           any state --`restart`--> agent stopped, new agent --> waiting
       v                          any state --`stop` or SIGTERM--> stopping --> exit code 0
    exit code 70
"""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import msgspec

from muster.agent.activity import AgentActivity
from muster.agent.agent_commands import error_of
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.base import Agent, AgentFactory, AgentMessage, Context
from muster.agent.exit_codes import ExitCode, force_exit_after
from muster.agent.log_output import emit_line
from muster.agent.message_queue import MessageOutcome, MessageQueue
from muster.agent.nats_session import NatsSession
from muster.agent.outcome_delivery import CONFIRM_AFTER_S
from muster.agent.process_metrics import ProcessMetrics, health_of
from muster.common.clock import rfc3339, utc_now
from muster.common.contracts.agent_process import AgentAnswered, AgentOrder, ProcessHandoff
from muster.common.faults import InvalidMessage

ANSWER_WITHIN_S = 1.5
"""Longest time in seconds for an answer.

The manager waits two seconds. So a slower message is answered `accepted`, and its outcome is delivered later on
`agent.<id>.response`.
"""
_LOGGED_ANSWER_CHARS = 2_000
"""Most characters of an answer in the agent's log. A log line of the manager has at most 16 KiB."""
MESSAGE_GRACE_S, STOP_GRACE_S, LEAVE_GRACE_S, EXIT_GRACE_S = 1.0, 2.0, 1.0, 4.7
"""Deadlines in seconds of the phases of a stop.

`EXIT_GRACE_S` includes all phases, because a package has 5 s to stop by default.
"""

logger = logging.getLogger(__name__)


class MessageParams(msgspec.Struct):
    """The `params` of the command `message`."""

    message_id: str
    text: str
    sender: str = "operator"
    urgent: bool = False


class ProcessAgent:
    """A process that runs one agent at a time. The command `restart` replaces the agent by a new one."""

    def __init__(self, handoff: ProcessHandoff, factory: AgentFactory, tasks: asyncio.TaskGroup) -> None:
        self._handoff, self._factory, self._tasks = handoff, factory, tasks
        changed = AutoResetEvent()
        self._activity = AgentActivity(changed, utc_now, state="waiting")
        self._agent: Agent = factory(self._context())
        self._messages_waiting = MessageQueue(self._answer, self._activity, tasks)
        self._process_metrics = ProcessMetrics(self._message_counts)
        self._must_stop = asyncio.Event()
        self._code: ExitCode | None = None
        self._restarts = handoff.restarts
        self._late = set[asyncio.Task[None]]()
        """Tasks that wait for the outcomes of messages that were answered `accepted`."""
        self.nats_session = NatsSession(
            handoff,
            self._activity,
            changed,
            message_counts=self._message_counts,
            read_metrics=lambda: self._process_metrics.read(self._agent.metrics),
            commands={"stop": self._stop, "restart": self._restart, "status": self._status, "message": self._message},
            queries={"health": self._health, "metrics": self._metrics},
        )

    def stop(self) -> None:
        """End the process with exit code 0. Called by the signal handlers and the command `stop`."""
        self._end(ExitCode.FINISHED)

    async def run(self) -> ExitCode:
        """Run one agent after the other until `stop` is called or an agent fails to start. Return the exit code."""
        while self._code is None:
            await self._run_agent()
            self._activity.show(state="waiting" if self._code is None else "stopping")
            await self._messages_waiting.shut(MESSAGE_GRACE_S, for_good=self._code is not None)
            if self._code is not None and self._late:
                await asyncio.wait(self._late, timeout=MESSAGE_GRACE_S)
            await self._release_agent()
            if self._code is None:
                self._must_stop.clear()
                self._restarts += 1
                self._agent = self._factory(self._context())
        return self._code

    async def _run_agent(self) -> None:
        """Start the agent and let it answer messages until `stop` or `restart`.

        Both also cancel an unfinished `start`.
        """
        start = self._tasks.create_task(self._start_agent())
        await self._must_stop.wait()
        start.cancel()
        await asyncio.wait({start})

    async def _start_agent(self) -> None:
        try:
            await self._agent.start()
        except Exception:
            logger.exception("agent failed to start")
            self._end(ExitCode.BROKEN)
        else:
            self._activity.show(state="idle")
            self._messages_waiting.open()
            logger.info("agent started", extra={"fields": {"launch": self._handoff.launch, "restarts": self._restarts}})

    def _end(self, code: ExitCode) -> None:
        force_exit_after(code, EXIT_GRACE_S)
        self._code = code
        self._must_stop.set()

    async def _release_agent(self) -> None:
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self._agent.stop()
        except TimeoutError:
            logger.warning("agent exceeded its stop deadline")
        except Exception:  # An error in `stop` must not prevent a restart or the end of the process.
            logger.exception("agent raised an error in stop")

    async def _answer(self, message: AgentMessage) -> str | None:
        """Pass a message to the current agent.

        `MessageQueue` calls this method instead of the agent's, because the queue outlives a restart of the agent.
        """
        return await self._agent.on_message(message)

    async def _stop(self, _: AgentOrder) -> dict[str, Any]:
        self.stop()
        return {"state": "stopping"}

    async def _restart(self, _: AgentOrder) -> dict[str, Any]:
        self._must_stop.set()
        return {"state": "restarting", "restarts": self._restarts + 1}

    async def _status(self, _: AgentOrder) -> dict[str, Any]:
        handoff, activity = self._handoff, self._activity
        return {
            "name": handoff.name,
            "type": handoff.agent_type,
            "version": handoff.agent_version,
            "launch": handoff.launch,
            "pid": os.getpid(),
            "state": activity.state,
            "busy": activity.busy,
            "since": rfc3339(activity.since),
            "uptime_s": self._process_metrics.uptime_s,
            "restarts": self._restarts,
            "messages": self._message_counts(),
        }

    async def _health(self, _: AgentOrder) -> dict[str, Any]:
        return await health_of(self._agent.health)

    async def _metrics(self, _: AgentOrder) -> dict[str, Any]:
        return dict(await self._process_metrics.read(self._agent.metrics))

    async def _message(self, order: AgentOrder) -> dict[str, Any]:
        try:
            params = msgspec.convert(order.params, MessageParams)
        except msgspec.ValidationError as error:
            fault = InvalidMessage.at(error, MessageParams)
            raise InvalidMessage(str(fault), field=f"$.params{(fault.field or '$')[1:]}") from None
        message = AgentMessage(
            message_id=params.message_id, text=params.text, sender=params.sender, urgent=params.urgent
        )
        task = self._messages_waiting.take(message)
        done, _ = await asyncio.wait({task}, timeout=ANSWER_WITHIN_S)
        if done:
            # If the event loop was blocked, the manager has given up waiting for the reply. The second delivery reaches
            # it in any case.
            self._deliver(params.message_id, task.result(), after_s=CONFIRM_AFTER_S)
            return _result(params.message_id, task.result())
        late = self._tasks.create_task(self._deliver_late(params.message_id, task))
        self._late.add(late)
        late.add_done_callback(self._late.discard)
        return {"message_id": params.message_id, "state": "accepted", "answer": None}

    async def _deliver_late(self, message_id: str, answering: asyncio.Task[MessageOutcome]) -> None:
        """Log and deliver the outcome of a message whose sender was told that the agent works on it."""
        outcome = await answering
        fields: dict[str, Any] = {"message_id": message_id}
        if outcome.fault:
            fields["error"] = str(outcome.fault)
            logger.warning("message was not answered", extra={"fields": fields})
        else:
            fields |= {"answer": _shortened(outcome.answer), "answer_bytes": outcome.answer_bytes}
            logger.info("message was answered", extra={"fields": fields})
        self._deliver(message_id, outcome, after_s=0)

    def _deliver(self, message_id: str, outcome: MessageOutcome, *, after_s: float) -> None:
        handoff, fault = self._handoff, outcome.fault
        answered = AgentAnswered(
            agent_id=handoff.agent_id,
            status="error" if fault else "success",
            command="message",
            result=None if fault else _result(message_id, outcome),
            error=error_of(fault) if fault else None,
            timestamp=utc_now(),
            message_id=message_id,
            launch=handoff.launch,
        )
        self.nats_session.outcomes.add(answered, after_s=after_s)

    def _message_counts(self) -> dict[str, Any]:
        box = self._messages_waiting
        return {"waiting": box.waiting, "answered": box.answered, "failed": box.failed}

    def _context(self) -> Context:
        handoff = self._handoff
        state_dir = Path(handoff.state_dir)
        workspace = state_dir / "workspace"
        workspace.mkdir(parents=True, exist_ok=True)
        return Context(
            agent_id=handoff.agent_id,
            name=handoff.name,
            agent_type=handoff.agent_type,
            agent_version=handoff.agent_version,
            mode="process",
            config=handoff.config,
            state_dir=state_dir,
            workspace=workspace,
            activity=self._activity,
            emit=emit_line,
            now=utc_now,
        )


def _result(message_id: str, outcome: MessageOutcome) -> dict[str, Any]:
    """Return the result of the command `message`. Raises the fault if the outcome is a fault."""
    if outcome.fault:
        raise outcome.fault
    result: dict[str, Any] = {"message_id": message_id, "state": "answered", "answer": outcome.answer}
    return result if outcome.answer_bytes is None else result | {"answer_bytes": outcome.answer_bytes}


def _shortened(answer: str | None) -> str | None:
    if answer is None or len(answer) <= _LOGGED_ANSWER_CHARS:
        return answer
    return f"{answer[:_LOGGED_ANSWER_CHARS]}… [cut: the agent's event has the answer]"


async def run_process_agent(handoff: ProcessHandoff, factory: AgentFactory) -> ExitCode:
    """Run a process-mode agent. Return its exit code, which is 0 only after `stop` or a signal."""
    code = ExitCode.BROKEN
    try:
        async with asyncio.TaskGroup() as tasks:
            agent = ProcessAgent(handoff, factory, tasks)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, agent.stop)
            session = tasks.create_task(agent.nats_session.run())
            code = await agent.run()
            agent.nats_session.leave()
            await asyncio.wait({session}, timeout=LEAVE_GRACE_S)
            session.cancel()
    except* Exception:
        logger.exception("agent process failed with an unexpected error")
        force_exit_after(code, EXIT_GRACE_S)
    return code
