"""Plays a task that is written as a list of steps. Tests use such tasks to test the services around an agent.

Each step is divided into numbered parts. Each part ends with an event in the journal (a file on disk), which contains
the position (step, part). After a kill the new process continues with the part after the last position in the journal.
So the new process may repeat the work of the interrupted part, but no part is missing and no event is written twice.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, override

from muster.agent.event_builder import Body, text_of
from muster.agent.exit_codes import ExitCode, Rejected
from muster.agent.journal import JournalPosition
from muster.agent.journalled_run import JournalledRun
from muster.agent.task_run import TaskContext
from muster.agents.echo.script import EchoQuestion, EchoStep, Write, steps_of
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.worker_api import InboxMessage

_FLOOD_EVENTS = 500
_PROLOGUE = JournalPosition(-1, 0)

Parts = AsyncIterator[tuple[int, list[Body]]]


class ModelDeclined(Exception):
    """Raised when the gateway permanently refuses a model request; this error ends the run."""


class Performance(JournalledRun):
    """A run that plays the steps of a task. After a kill, the run continues at the last position of its journal."""

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self._delivery = asyncio.Event()

    @override
    async def deliver(self, message: InboxMessage) -> None:
        await super().deliver(message)
        self._delivery.set()

    @override
    async def run(self) -> Finished:
        self.running = asyncio.current_task()
        steps = steps_of(self.context.handoff)
        if self.journal.position is None:
            self.write([self.build.message("user", "user", self.context.handoff.objective)], _PROLOGUE)
        done = self.journal.position or _PROLOGUE
        waits = 0
        for index, step in enumerate(steps):
            waits += step.until_message
            if index < done.step or step.epoch not in (None, self.context.handoff.epoch):
                continue
            part = done.part + 1 if index == done.step else 0
            # Each part of a step is in the journal before the next part begins, so a kill interrupts at most one part.
            async for number, bodies in self._parts(step, part, waits):
                self.write(bodies, JournalPosition(index, number))
            if step.finish:
                return Finished(outcome=step.finish, summary=step.summary)
        return Finished(outcome="success", summary="all steps played")

    def _parts(self, step: EchoStep, part: int, waits: int) -> Parts:
        """Yield the parts of a step from the part with the number `part` on; each part is a pair (number, events)."""
        match step:
            case EchoStep(act=str()):
                parts = self._acts(step, part, waits)
            case EchoStep(write=Write() as write):
                parts = self._writes(write, part)
            case EchoStep(ask=EchoQuestion() as ask):
                parts = self._asks(ask, part)
            case EchoStep(exit=int(code)):
                parts = self._exits(code, part)
            case EchoStep(finish=str()):
                parts = self._pair(self.build.finish(step.summary), step.summary, part, base=0)
            case EchoStep(flood=0):
                parts = self._sleeps(step.sleep_ms / 1000)
            case _:
                parts = self._floods(step.flood, part)
        return parts

    async def _acts(self, step: EchoStep, part: int, waits: int) -> Parts:
        """Yield the repeated action of a step, and an observation after each repetition.

        Part 2k of the step is the action of repetition k (from 0), and part 2k+1 is the observation of this action.
        """
        self.context.activity.show(busy="tool")
        while len(self.delivered) < waits if step.until_message else part < 2 * step.times:
            repetition = part // 2
            async for piece in self._pair(
                self.build.command(str(step.act)), step.observe, part % 2, base=2 * repetition
            ):
                yield piece
            part = 2 * repetition + 2
            await self._pause(step.every_ms / 1000, early=step.until_message)
        self.context.activity.show(busy="none")

    async def _writes(self, write: Write, part: int) -> Parts:
        target = self.context.workspace / write.path
        async for piece in self._pair(self.build.file_edit(str(target), write.text), "written", part, base=0):
            if piece[0] == 1:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(write.text)
            yield piece

    async def _asks(self, ask: EchoQuestion, part: int) -> Parts:
        if part == 0:
            yield 0, [self.build.message("agent", "assistant", await self._answer(ask))]

    async def _floods(self, events: int, part: int) -> Parts:
        for chunk in range(part, -(-events // _FLOOD_EVENTS)):
            numbers = range(chunk * _FLOOD_EVENTS, min((chunk + 1) * _FLOOD_EVENTS, events))
            yield chunk, [self.build.message("agent", "assistant", f"flood {number}") for number in numbers]
            # The tasks of the outbox and of the heartbeat get a turn before this loop emits the next events.
            await asyncio.sleep(0)

    async def _exits(self, code: int, part: int) -> Parts:
        if part == 0:
            yield 0, [self.build.command(f"exit {code}")]
            os._exit(code)  # This simulates a crash: Python flushes no buffer and runs no other code.

    async def _sleeps(self, seconds: float) -> Parts:
        await asyncio.sleep(seconds)
        for nothing in ():
            yield nothing

    async def _pair(self, action: Body, observed: str, part: int, *, base: int) -> Parts:
        """Yield an action and its observation; yield only the observation if the journal contains the action."""
        if part == 0:
            yield base, [action]
        else:
            action = next(body for body in reversed(self.journal.bodies()) if body["kind"] == "ActionEvent")
        if part <= 1:
            yield base + 1, [self.build.observation(action, observed)]

    async def _answer(self, ask: EchoQuestion) -> str:
        """Send a model request with the conversation so far, including steering messages; return the answer."""
        messages: list[dict[str, Any]] = [
            {"role": body["llm_message"]["role"], "content": text_of(body)}
            for body in self.journal.bodies()
            if body["kind"] == "MessageEvent"
        ]
        if ask.text:
            messages.append({"role": "user", "content": ask.text})
        self.context.activity.show(busy="model")
        try:
            request = {"model": ask.model or self.context.handoff.model, "messages": messages}
            answer = await self.context.gateway.complete(request)
        except Rejected as refusal:
            if refusal.exit_code is ExitCode.UNKNOWN_TOKEN:
                raise
            raise ModelDeclined(str(refusal)) from None
        finally:
            self.context.activity.show(busy="none")
        return answer["choices"][0]["message"].get("content") or ""

    async def _pause(self, seconds: float, *, early: bool) -> None:
        """Wait for `seconds`; with `early`, return as soon as a steering message is delivered."""
        try:
            async with asyncio.timeout(seconds):
                await (self._delivery.wait() if early else asyncio.Event().wait())
        except TimeoutError:
            return
        finally:
            self._delivery.clear()
