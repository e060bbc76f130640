"""Keeps one part of the stack running: restarts the part when it dies, and when a person asks for a restart.

    running ── dies ──────► restart after a growing delay, counted; 5 deaths in 60 s ──► `StackFailedError`
       │
       └── `restart()` ───► stop signal, end of the process, new process, ready; not counted

A lock makes sure that only one of the two replaces the process. After each end, `run` checks under the lock whether
`restart` has already replaced the process.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from muster.common.supervision import Intensity
from muster.embedded.config import Restarts
from muster.embedded.parts import Part
from muster.embedded.processes import ExitedError, ManagedProcess, describe_exit
from muster.embedded.start_progress import PartProgress

log = structlog.get_logger()


class StackFailedError(Exception):
    """A part of the stack died too often, or could not be started again."""


class PartSupervisor:
    """Restarts one part of the stack. `replaced` is awaited after each new process of the part has started."""

    def __init__(self, part: Part, limit: Restarts, replaced: Callable[[PartProgress], Awaitable[None]]) -> None:
        self.part = part
        self.restarts = 0
        """The number of restarts after a death of the part."""
        self._limit, self._replaced = limit, replaced
        self._replacing = asyncio.Lock()

    async def run(self) -> None:
        """Restart the part each time it dies, until cancelled.

        Raises `StackFailedError` if the part dies too often or cannot be started.
        """
        now = asyncio.get_running_loop().time
        intensity = Intensity(self._limit.most, self._limit.within_s)
        while True:
            process = self.part.running
            how = describe_exit(await process.exited())
            async with self._replacing:
                if self.part.running is not process:
                    continue  # `restart` has stopped this process and started another one.
                if intensity.too_much(now()):
                    raise StackFailedError(self._died_too_often(process, how))
                log.warning("stack part died, restarting it", part=self.part.name, how=how)
                await asyncio.sleep(intensity.delay_s(now()))
                try:
                    await self.part.spawn()
                except (OSError, ExitedError) as error:
                    raise StackFailedError(
                        f"the process of {self.part.name} {how}, and cannot be restarted: {error}"
                    ) from error
            self.restarts += 1
            await self._replaced(PartProgress(part=self.part.name, state="died"))

    async def restart(self) -> float:
        """Stop the part's process, start another one, and return the seconds until it is ready.

        The restart is not counted as a death. Raises `OSError`, `ExitedError` or `TimeoutError` if the new process does
        not become ready; `run` restarts it then.
        """
        now = asyncio.get_running_loop().time
        began_s = now()
        async with self._replacing:
            log.info("stack part stopped to be restarted", part=self.part.name)
            await self.part.stop()
            await self.part.spawn()
        await self._replaced(PartProgress(part=self.part.name, state="restarted"))
        await self.part.ready()
        return now() - began_s

    def _died_too_often(self, process: ManagedProcess, how: str) -> str:
        return (
            f"{self.part.name} died {self._limit.most} times in {self._limit.within_s:.0f} s; the last time it {how}. "
            f"The end of its log {process.command.log}:\n{process.tail()}"
        )
