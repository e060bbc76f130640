"""Makes sandboxes on the gateway's host. A sandbox consists of a few directories and its processes.

The shim, a process on the same host, starts, isolates and supervises the processes.
"""

import asyncio
import os
import re
import stat
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from muster.common.contract import token
from muster.common.contracts.task_spec import NetworkMode
from muster.common.faults import NotFound, Unavailable
from muster.common.isolation_levels import STRONGEST, IsolationLevel, refuse_weaker
from muster.common.worker_sources import readable_sources
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
from muster.sandbox_gateway.providers.local import disk, files
from muster.sandbox_gateway.providers.local.disk_use import DIRECTORIES
from muster.sandbox_gateway.providers.local.disk_watch import KEY_PREFIX
from muster.sandbox_gateway.providers.local.environment import process_environment
from muster.sandbox_gateway.providers.local.shim_health import shim_health
from muster.sandbox_gateway.providers.local.shim_records import limits_of, state_of
from muster.shim.client import Preload, ProcessRecord, ShimClient

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORKER_MODULES = ("muster.agent.entry", "muster.agent.worker")
_MADE = "made"
"""An empty file that is written when the sandbox is made. The sandbox's processes cannot change it."""


class LocalSandboxes:
    """The provider `local`: makes sandboxes on the gateway's host and runs their processes with the host's shim."""

    name = "local"
    capabilities = frozenset({ProviderCapability.HOST_CODE, ProviderCapability.PRELOAD})

    def __init__(
        self,
        shim: ShimClient,
        *,
        root: Path,
        network: NetworkMode,
        gateway_url: str,
        gateway_socket: Path,
        lease_s: float,
        host: str,
        egress_socket: Path | None = None,
        at_least: IsolationLevel = STRONGEST,
        problem: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.host = host
        self._at_least: IsolationLevel = at_least
        self._shim, self._root = shim, root
        self._network, self._lease_s = network == "host", lease_s
        self._gateway_url, self._gateway_socket = gateway_url, gateway_socket
        self._egress_socket, self._problem = egress_socket, problem

    def reaches(self, host: str) -> bool:
        """Whether `host` is the gateway's own host."""
        return host == self.host

    async def isolation(self) -> str:
        """Return the isolation that the shim uses for processes. The shim tested this isolation when it started."""
        return (await self._shim.probe()).level

    async def health(self) -> dict[str, str]:
        """Return the isolation of processes and its reason."""
        return await shim_health(self._shim, self._at_least)

    def problem(self) -> str | None:
        """Return why no sandboxes are made at present: the host has too little free disk space."""
        return self._problem()

    def staging(self, sandbox_id: str) -> Path:
        """Return the sandbox's own directory. The processes cannot write it, but read what `provide` names in it."""
        return self._home(sandbox_id)

    async def ensure(self, spec: SandboxSpec) -> SandboxLayout:
        """Make the sandbox's directories. Raises `Unavailable` if the host's disk is too full or the shim too weak."""
        if problem := self.problem():
            raise Unavailable(problem)
        refuse_weaker((await self._shim.probe()).level, self._at_least)
        home = self._home(spec.sandbox_id)
        for name in DIRECTORIES:
            (home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (home / _MADE).touch(mode=0o600, exist_ok=False)
        return self._layout(home)

    async def layout(self, sandbox_id: str) -> SandboxLayout:
        """Return the paths of a sandbox. Raises `NotFound` if its workspace does not exist."""
        home = self._home(sandbox_id)
        if not (home / "workspace").is_dir():
            raise NotFound("the workspace of this sandbox does not exist", field="$.sandbox_id")
        return self._layout(home)

    async def get(self, sandbox_id: str) -> FoundSandbox | None:
        """Return the sandbox, or None if it has no directory."""
        return await asyncio.to_thread(_found, self._home(sandbox_id))

    async def existing(self) -> Sequence[FoundSandbox]:
        """Return the sandboxes that have a directory on this host."""
        return await asyncio.to_thread(self._all)

    async def stop(self, sandbox_id: str) -> None:
        """Kill all processes of a sandbox. Its directories stay."""
        for record in await self._processes(sandbox_id):
            await self._shim.stop(record.key, 0.0)

    async def delete(self, sandbox_id: str) -> None:
        """Kill a sandbox's processes, delete their records in the shim, and remove the sandbox's directories."""
        for record in await self._processes(sandbox_id):
            await self._shim.remove(record.key)
        await disk.remove(self._home(sandbox_id))

    async def touch(self, sandbox_ids: Sequence[str]) -> None:
        """Renew the leases of the workers of these sandboxes in the shim."""
        await self._shim.renew(*(self._key(sandbox_id, WORKER) for sandbox_id in sandbox_ids))

    async def provide(self, sandbox_id: str, name: str, source: Path) -> str:  # noqa: ARG002 - nothing is copied
        """Return the path of `source`, which has the same name inside of the sandbox."""
        return str(source)

    async def put(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a file below a directory of the sandbox. Follows no link. Raises `InvalidMessage` for another path."""
        await files.write(self._home(sandbox_id), path, DIRECTORIES, chunks)

    def fetch(self, sandbox_id: str, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a regular file below a directory of the sandbox. Follows no link."""
        return files.read(self._home(sandbox_id), path, DIRECTORIES)

    async def discard(self, sandbox_id: str, path: str) -> None:
        """Remove a file below a directory of the sandbox. Follows no link."""
        await files.remove(self._home(sandbox_id), path, DIRECTORIES)

    async def launch(self, sandbox_id: str, process: ProcessSpec) -> ProcessState:
        """Start a process with the shim, and return its state."""
        home = self._home(sandbox_id)
        record = await self._shim.launch(
            self._key(sandbox_id, process.key),
            process.argv,
            cwd=process.cwd,
            env=process_environment(home / "home") | process.env,
            writable=[home / name for name in DIRECTORIES],
            readable=[*readable_sources(), self._gateway_socket.parent, *process.readable],
            network=self._network and process.host_network,
            limits=limits_of(process.limits),
            preload=self._preload(process),
            lease_s=self._lease_s if process.leased else None,
            timeout_s=process.timeout_s,
            at_least=self._at_least,
        )
        return state_of(record)

    async def preload(self, process: ProcessSpec) -> str | None:
        """Start the fork server of processes like this one. Return the reason if they start without a fork server."""
        wanted = self._preload(process)
        return await self._shim.prepare(wanted, network=self._network) if wanted else "the package preloads no modules"

    async def poll(self, sandbox_id: str, key: str = WORKER) -> ProcessState | None:
        """Return the state of a process, as reported by the shim; None if the shim has no record of it."""
        record = await self._shim.get(self._key(sandbox_id, key))
        return state_of(record) if record else None

    async def poll_all(self) -> dict[str, ProcessState]:
        """Return the states of the workers of all sandboxes. Other processes of the sandboxes are left out."""
        return {
            record.key.removeprefix(KEY_PREFIX): state_of(record)
            for record in await self._shim.list(KEY_PREFIX)
            if record.key.count(":") == 1
        }

    async def wait(self, sandbox_id: str, key: str, *, deadline_s: float) -> ProcessState:
        """Wait until the shim reports the end of a process. Raises `TimedOut` after `deadline_s` seconds."""
        return state_of(await self._shim.wait(self._key(sandbox_id, key), deadline_s=deadline_s))

    async def logs(self, sandbox_id: str, key: str = WORKER, *, offset: int = 0, limit: int) -> LogPage:
        """Return a piece of a process's output. Raises `NotFound` if there is no such process."""
        page = await self._shim.output_page(self._key(sandbox_id, key), offset, limit)
        return LogPage(page.body, page.next_offset)

    async def kill(self, sandbox_id: str, key: str = WORKER, *, grace_s: float = 0.0) -> ProcessState | None:
        """Send SIGTERM to a process, and SIGKILL `grace_s` seconds later. Returns None if there is no such process."""
        try:
            return state_of(await self._shim.stop(self._key(sandbox_id, key), grace_s))
        except NotFound:
            return None

    async def forget(self, sandbox_id: str, key: str) -> None:
        """Kill a process if it runs, and remove its record and output in the shim."""
        await self._shim.remove(self._key(sandbox_id, key))

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """Return the number of events in the worker's state directory; None if the worker has stored no event files."""
        return await asyncio.to_thread(disk.count_events, self._home(sandbox_id) / "state")

    async def exits(self) -> AsyncIterator[str]:
        """Yield the id of a sandbox each time that the shim reports the end of its worker."""
        async for record in self._shim.exits():
            if record.key.startswith(KEY_PREFIX) and record.key.count(":") == 1:
                yield record.key.removeprefix(KEY_PREFIX)

    async def aclose(self) -> None:
        """Do nothing: the owner of the shim's client closes it."""

    async def _processes(self, sandbox_id: str) -> list[ProcessRecord]:
        worker = self._key(sandbox_id, WORKER)
        found = await self._shim.list(worker)
        return [record for record in found if record.key == worker or record.key.startswith(f"{worker}:")]

    def _preload(self, process: ProcessSpec) -> Preload | None:
        """Return the modules that the shim imports before it starts this process, and the paths that this needs."""
        if not process.preload:
            return None
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)  # It can be bound only if it exists.
        own = [path for path in process.readable if not Path(path).is_relative_to(self._root)]
        return Preload(
            modules=[*_WORKER_MODULES, *process.preload],
            roots=[str(self._root), str(self._gateway_socket.parent)],
            readable=[*readable_sources(), *own],
            import_paths=[path for path in process.env.get("PYTHONPATH", "").split(os.pathsep) if path],
        )

    def _layout(self, home: Path) -> SandboxLayout:
        return SandboxLayout(
            workspace=str(home / "workspace"),
            state_dir=str(home / "state"),
            run_dir=str(home / "run"),
            python=sys.executable,
            gateway_url=self._gateway_url,
            gateway_socket=str(self._gateway_socket),
            egress_socket=str(self._egress_socket) if self._egress_socket else None,
        )

    def _all(self) -> list[FoundSandbox]:
        try:
            inside = sorted(self._root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(f"the directory of all sandboxes cannot be read: {error.strerror}") from None
        homes = [home for home in inside if _ID.fullmatch(home.name) and not home.is_symlink()]
        return [sandbox for home in homes if (sandbox := _found(home))]

    def _key(self, sandbox_id: str, key: str) -> str:
        worker = KEY_PREFIX + token(sandbox_id, "sandbox_id")
        return worker if key == WORKER else f"{worker}:{key}"

    def _home(self, sandbox_id: str) -> Path:
        return self._root / token(sandbox_id, "sandbox_id")


def _found(home: Path) -> FoundSandbox | None:
    """Return the sandbox with this directory, also if a removal has left only a part of the directory.

    Raises `Unavailable` if that cannot be read. A disk that fails must not look like a sandbox that does not exist.
    """
    try:
        made = home.lstat()
        if not stat.S_ISDIR(made.st_mode):
            return None
        with suppress(FileNotFoundError):  # A sandbox of an older release has no such file.
            made = (home / _MADE).lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"the directory of sandbox {home.name} cannot be read: {error.strerror}") from None
    return FoundSandbox(home.name, datetime.fromtimestamp(made.st_mtime, UTC))
