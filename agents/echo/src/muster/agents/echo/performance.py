"""Plays a task that is written as steps, for tests of the parts around an agent.

Each step is divided into numbered parts, and each part ends with an event in the journal at the position (step, part).
A relaunch continues with the part after the last position, so a kill loses at most one part, and plays none twice.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, override

from muster.agent.event_builder import Body, text_of
from muster.agent.exits import ExitCode, Rejected
from muster.agent.journal import JournalPosition
from muster.agent.journalled_run import JournalledRun
from muster.agent.task_run import TaskContext
from muster.agents.echo.script import EchoQuestion, EchoStep, Write, steps_of
from muster.common.contracts.doors import InboxMessage
from muster.common.contracts.sandbox_log import Finished

_FLOOD_EVENTS = 500
_PROLOGUE = JournalPosition(-1, 0)

Parts = AsyncIterator[tuple[int, list[Body]]]


class ModelDeclined(Exception):
    """The gateway refused the model request permanently; the run ends with this error."""


class Performance(JournalledRun):
    """A run that plays the steps of a task, and continues after a kill where its journal ends."""

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
            # A part is in the journal before the next one begins: so a kill repeats or loses at most one.
            async for number, bodies in self._parts(step, part, waits):
                self.write(bodies, JournalPosition(index, number))
            if step.finish:
                return Finished(outcome=step.finish, summary=step.summary)
        return Finished(outcome="success", summary="all steps played")

    def _parts(self, step: EchoStep, part: int, waits: int) -> Parts:
        """Yield the events of a step in numbered parts, from number `part` on."""
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
        """Play an action `times` over. Part 2k is the k-th action, part 2k+1 its observation."""
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
            await asyncio.sleep(0)  # lets the outbox and the heartbeat run

    async def _exits(self, code: int, part: int) -> Parts:
        if part == 0:
            yield 0, [self.build.command(f"exit {code}")]
            os._exit(code)  # like a crash: nothing is flushed, and no other code runs

    async def _sleeps(self, seconds: float) -> Parts:
        await asyncio.sleep(seconds)
        for nothing in ():
            yield nothing

    async def _pair(self, action: Body, observed: str, part: int, *, base: int) -> Parts:
        """Yield an action and its observation; only the observation if the action is already in the journal."""
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
        """Wait; with `early`, return as soon as a message is delivered."""
        try:
            async with asyncio.timeout(seconds):
                await (self._delivery.wait() if early else asyncio.Event().wait())
        except TimeoutError:
            return
        finally:
            self._delivery.clear()
