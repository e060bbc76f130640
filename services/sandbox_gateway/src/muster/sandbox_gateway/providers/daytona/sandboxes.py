"""Makes sandboxes at a Daytona server, and runs processes in them with the uploaded program."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import structlog
from daytona import AsyncSandbox, SandboxState

from muster.common.contract import token
from muster.common.faults import Conflict, Fault, NotFound, TimedOut, Unavailable
from muster.sandbox_gateway.provider_settings import DaytonaSettings
from muster.sandbox_gateway.providers.daytona.answers import ProcessAnswer
from muster.sandbox_gateway.providers.daytona.calls import CALL_S, CREATE_S, DaytonaCalls, until_gone
from muster.sandbox_gateway.providers.daytona.faults import translated
from muster.sandbox_gateway.providers.daytona.inside import DaytonaSandbox
from muster.sandbox_gateway.providers.daytona.states import NAME, found_of, state_of
from muster.sandbox_gateway.providers.interface import (
    WORKER,
    FoundSandbox,
    LogPage,
    ProcessSpec,
    ProcessState,
    ProviderCapability,
    SandboxLayout,
    SandboxSpec,
)
from muster.sandbox_gateway.providers.local import disk

log = structlog.get_logger()

_POLLS_AT_ONCE = 16
_LOOK_AGAIN_S = 0.5
_LOOK_AGAIN_MOST_S = 4.0
_GONE_S = 5.0
_PAUSED = (SandboxState.PAUSED, SandboxState.PAUSING, SandboxState.RESUMING)


class DaytonaSandboxes:
    """The provider `daytona`: makes sandboxes at a Daytona server and runs their processes there."""

    name = NAME
    capabilities = frozenset(
        {ProviderCapability.PAUSE, ProviderCapability.SNAPSHOT, ProviderCapability.FORK, ProviderCapability.ENDPOINT}
    )

    def __init__(
        self,
        calls: DaytonaCalls,
        settings: DaytonaSettings,
        *,
        host: str,
        gateway_url: str,
        staging: Path,
        monotonic: Callable[[], float],
    ) -> None:
        self.host = host
        self._calls, self._settings, self._gateway_url = calls, settings, gateway_url
        self._staging, self._monotonic = staging, monotonic
        self._inside = dict[str, DaytonaSandbox]()
        self._watched = set[str]()
        self._touched = dict[str, float]()

    def reaches(self, host: str) -> bool:
        """Whether `host` is the API and target of this gateway. Records of older releases have the target only."""
        return host in (self.host, f"{NAME}:{self._settings.daytona_target}")

    async def isolation(self) -> str:
        """Return `daytona`: the server isolates sandboxes from each other and from the gateway."""
        return self.name

    def staging(self, sandbox_id: str) -> Path:
        """Return a directory on the gateway's host for files that are then uploaded."""
        return self._staging / token(sandbox_id, "sandbox_id")

    async def ensure(self, spec: SandboxSpec) -> SandboxLayout:
        """Make the sandbox at Daytona, or find it by its name, and start it."""
        token(spec.sandbox_id, "sandbox_id")
        inside = await self._entered(await self._calls.running(spec), spec.sandbox_id)
        await inside.prepare()
        return self._layout(inside)

    async def layout(self, sandbox_id: str) -> SandboxLayout:
        """Return the paths of a sandbox. Raises `NotFound` if it does not exist, and `Conflict` if it does not run."""
        return self._layout(await self._started(sandbox_id))

    async def get(self, sandbox_id: str) -> FoundSandbox | None:
        """Return the sandbox, or None if Daytona does not have it."""
        found = await self._calls.find(token(sandbox_id, "sandbox_id"))
        return found_of(found, self._settings) if found else None

    async def existing(self) -> Sequence[FoundSandbox]:
        """Return the sandboxes with the label of this deployment."""
        return [found_of(sandbox, self._settings) async for sandbox in self._calls.each()]

    async def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox, which then costs only its disk."""
        self._forget(sandbox_id)
        found = await self._calls.find(token(sandbox_id, "sandbox_id"))
        if found is not None and found.state == SandboxState.STARTED:
            with translated(f"stop {found.name}"):
                await found.stop(timeout=CREATE_S)

    async def delete(self, sandbox_id: str) -> None:
        """Remove a sandbox. Raises `Unavailable` until Daytona has removed it."""
        self._forget(sandbox_id)
        await disk.remove(self.staging(sandbox_id))
        try:
            await self._calls.delete(sandbox_id)
        except (Conflict, Fault):
            if not await until_gone(self._calls, sandbox_id, within_s=_GONE_S):
                raise

    async def touch(self, sandbox_ids: Sequence[str]) -> None:
        """Refresh the activity of sandboxes three times within the interval after which Daytona stops them."""
        every_s = self._settings.daytona_auto_stop_minutes * 20.0  # a third of the interval
        now = self._monotonic()
        due = [one for one in sandbox_ids if one in self._inside and now - self._touched.get(one, -every_s) >= every_s]
        failed: Fault | None = None
        for sandbox_id in due:
            try:
                await self._inside[sandbox_id].refresh()
                self._touched[sandbox_id] = now
            except Fault as fault:  # One that fails must not keep the others from being refreshed.
                failed = fault
        if failed:
            raise failed

    async def provide(self, sandbox_id: str, name: str, source: Path) -> str:
        """Upload a directory of the gateway's host, verified by its hash. Return its path inside."""
        inside = await self._started(sandbox_id)
        path = await inside.provide(name, source)
        await disk.remove(self.staging(sandbox_id))
        return path

    async def put(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Upload a file, verified by its hash."""
        await (await self._started(sandbox_id)).put(path, chunks)

    async def fetch(self, sandbox_id: str, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a file, verified by its hash at the end."""
        inside = await self._started(sandbox_id)
        async for chunk in inside.fetch(path):
            yield chunk

    async def discard(self, sandbox_id: str, path: str) -> None:
        """Remove a file in a sandbox."""
        await (await self._started(sandbox_id)).discard(path)

    async def launch(self, sandbox_id: str, process: ProcessSpec) -> ProcessState:
        """Start a process in a session of its own, unless its key is known. Return its state."""
        state = state_of(await (await self._started(sandbox_id)).launch(process), process.limits)
        if process.key == WORKER and state.running:
            self._watched.add(sandbox_id)
        return state

    async def poll(self, sandbox_id: str, key: str = WORKER) -> ProcessState | None:
        """Return the state of a process. A sandbox that is gone has none; in a stopped one every process has ended."""
        try:
            state = await self._status(sandbox_id, key)
        except NotFound:
            self._forget(sandbox_id)
            return None
        except Conflict as stopped:
            self._forget(sandbox_id)
            return ProcessState(running=False, isolation=self.name, error=str(stopped), interrupted=True)
        if state is None:
            return None
        if key == WORKER and state.running:
            self._watched.add(sandbox_id)
        elif key == WORKER:
            self._watched.discard(sandbox_id)
        return state_of(state)

    async def _status(self, sandbox_id: str, key: str) -> ProcessAnswer | None:
        try:
            return await (await self._started(sandbox_id)).status(key)
        except Unavailable:
            self._inside.pop(sandbox_id, None)  # The sandbox may have been stopped since it was last used.
            found = await self._calls.find(sandbox_id)
            if found is not None and found.state in _PAUSED:
                return ProcessAnswer(known=True, running=True)
            return await (await self._started(sandbox_id)).status(key)

    async def poll_all(self) -> dict[str, ProcessState]:
        """Return the states of the workers that were seen running. A worker that cannot be asked is left out."""
        slots = asyncio.Semaphore(_POLLS_AT_ONCE)

        async def polled(sandbox_id: str) -> tuple[str, ProcessState | None]:
            async with slots:
                try:
                    return sandbox_id, await self.poll(sandbox_id)
                except Fault as fault:
                    log.warning("poll of a Daytona sandbox failed", sandbox_id=sandbox_id, error=str(fault))
                    return sandbox_id, ProcessState(running=True, isolation=self.name)

        found = await asyncio.gather(*map(polled, list(self._watched)))
        return {sandbox_id: state for sandbox_id, state in found if state is not None}

    async def wait(self, sandbox_id: str, key: str, *, deadline_s: float) -> ProcessState:
        """Ask for the state of a process until it has ended: at first twice a second, later every 4 s."""
        pause_s = _LOOK_AGAIN_S
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    state = await self.poll(sandbox_id, key)
                    if state is None:
                        raise NotFound(f"the sandbox has no process {key}")
                    if not state.running:
                        return state
                    await asyncio.sleep(pause_s)
                    pause_s = min(1.5 * pause_s, _LOOK_AGAIN_MOST_S)
        except TimeoutError:
            raise TimedOut(f"the process {key} has not ended within {deadline_s:g} s") from None

    async def logs(self, sandbox_id: str, key: str = WORKER, *, offset: int = 0, limit: int) -> LogPage:
        """Return a piece of a process's output. Raises `NotFound` if there is no such process."""
        body, after = await (await self._started(sandbox_id)).logs(key, offset, limit)
        return LogPage(body, after)

    async def kill(self, sandbox_id: str, key: str = WORKER, *, grace_s: float = 0.0) -> ProcessState | None:
        """End a process: SIGTERM, and SIGKILL `grace_s` seconds later. Returns None if there is no such process."""
        try:
            state = await (await self._started(sandbox_id)).kill(key, grace_s)
        except (NotFound, Conflict):
            return await self.poll(sandbox_id, key)
        if key == WORKER:
            self._watched.discard(sandbox_id)
        return state_of(state) if state else None

    async def forget(self, sandbox_id: str, key: str) -> None:
        """Kill a process if it runs, and remove its directory and its session."""
        await (await self._started(sandbox_id)).forget(key)

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """Return the number of events that the worker has stored in the sandbox."""
        return await (await self._started(sandbox_id)).events()

    async def exits(self) -> AsyncIterator[str]:
        """Yield nothing: Daytona reports no ends of processes, so `poll_all` finds them."""
        await asyncio.Event().wait()
        yield ""

    async def aclose(self) -> None:
        """Do nothing: the owner of the SDK's client closes it."""

    async def pause(self, sandbox_id: str) -> None:
        """Pause a sandbox with its memory. `ensure` continues it."""
        inside = await self._started(sandbox_id)
        with translated(f"pause {inside.sandbox.name}"):
            await inside.sandbox.pause(timeout=CREATE_S)

    async def snapshot(self, sandbox_id: str, name: str) -> None:
        """Store the files of a sandbox as a snapshot with this name."""
        inside = await self._started(sandbox_id)
        with translated(f"make a snapshot of {inside.sandbox.name}"):
            await inside.sandbox.create_snapshot(name, timeout=CREATE_S)

    async def fork(self, sandbox_id: str, new_id: str) -> None:
        """Make the sandbox `new_id` with the files of another one."""
        await self._calls.fork((await self._started(sandbox_id)).sandbox, token(new_id, "sandbox_id"))

    async def endpoint(self, sandbox_id: str, port: int) -> str:
        """Return the URL at which a port of the sandbox can be reached with a token that Daytona keeps."""
        inside = await self._started(sandbox_id)
        with translated(f"find the URL of {inside.sandbox.name}"):
            return (await inside.sandbox.get_preview_link(port, request_timeout=CALL_S)).url

    async def _started(self, sandbox_id: str) -> DaytonaSandbox:
        """Return the inside of a started sandbox. Raises `NotFound` or, if it is not started, `Conflict`."""
        if (known := self._inside.get(token(sandbox_id, "sandbox_id"))) is not None:
            return known
        found = await self._calls.find(sandbox_id)
        if found is None:
            raise NotFound(f"Daytona has no sandbox {sandbox_id}", field="$.sandbox_id")
        if found.state != SandboxState.STARTED:
            raise Conflict(f"the sandbox is {found.state} at Daytona: it was stopped there, or its time was over")
        return await self._entered(found, sandbox_id)

    async def _entered(self, found: AsyncSandbox, sandbox_id: str) -> DaytonaSandbox:
        with translated(f"find the directory of {found.name}"):
            home = await found.get_work_dir()
        inside = DaytonaSandbox(found, f"{home.rstrip('/')}/.muster", self._settings.daytona_python)
        self._inside[sandbox_id] = inside
        return inside

    def _layout(self, inside: DaytonaSandbox) -> SandboxLayout:
        return SandboxLayout(
            workspace=inside.path("workspace"),
            state_dir=inside.path("state"),
            run_dir=inside.path("run"),
            python=self._settings.daytona_python,
            gateway_url=self._gateway_url,
            gateway_socket=None,
        )

    def _forget(self, sandbox_id: str) -> None:
        self._inside.pop(sandbox_id, None)
        self._watched.discard(sandbox_id)
        self._touched.pop(sandbox_id, None)
