"""Makes sandboxes on the gateway's host. A sandbox consists of a few directories and a worker.

The shim, a process on the same host, starts, isolates and supervises the worker.
"""

import asyncio
import hashlib
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from muster.common.contract import encode, token
from muster.common.contracts.gateway import CreateSandbox, SandboxOutput
from muster.common.contracts.packages import Resources
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import Handoff
from muster.common.faults import InvalidMessage, NotFound, Unavailable
from muster.common.worker_sources import readable_sources
from muster.sandbox_gateway.providers.interface import SandboxLayout, WorkerProcess
from muster.sandbox_gateway.providers.local import disk
from muster.sandbox_gateway.providers.local.mirrors import mirror
from muster.sandbox_gateway.providers.local.packages import PackageCode, Packages
from muster.sandbox_gateway.providers.local.repositories import AllowedRepositories
from muster.shim.client import Limits, ProcessRecord, ShimClient

MAX_OUTPUT_BYTES = 256 << 10
_KEY = "sbx:"
_BACKSTOP_S = 900.0
"""Seconds after the task's timeout at which the shim ends a worker that is still running."""
_TIMED_OUT = 124
_MIRROR = "repo.git"
_COPIES_AT_ONCE = 4


class LocalSandboxes:
    """The provider `local`: makes sandboxes on the gateway's host and runs their workers with the host's shim."""

    name = "local"

    def __init__(
        self,
        shim: ShimClient,
        *,
        root: Path,
        repos: AllowedRepositories,
        packages: Packages,
        network: Literal["none", "host"],
        gateway_url: str,
        gateway_socket: Path,
        lease_s: float,
        host: str,
    ) -> None:
        self.host = host
        self._shim, self._root, self._repos, self._packages = shim, root, repos, packages
        self._network, self._lease_s = network == "host", lease_s
        self._gateway_url, self._gateway_socket = gateway_url, gateway_socket
        self._copies = ThreadPoolExecutor(_COPIES_AT_ONCE, "repository-copy")

    def reaches(self, host: str) -> bool:
        """Whether `host` is the gateway's own host."""
        return host == self.host

    async def isolation(self) -> str:
        """Return the isolation that the shim uses for workers. The shim tested this isolation when it started."""
        return (await self._shim.probe()).level

    def check(self, package: str, repo: Repo | None) -> None:
        """Raise `InvalidMessage` if the package is not installed or sandboxes may not clone the repository."""
        self._packages.find(package)
        if repo is not None:
            self._repos.resolve(repo)

    async def ensure(self, create: CreateSandbox) -> SandboxLayout:
        """Make the sandbox's directories, and a copy of a local repository, which the worker then clones."""
        home = self._home(create.sandbox_id)
        for name in ("workspace", "state", "run", "home"):
            (home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        return SandboxLayout(
            workspace=str(home / "workspace"),
            state_dir=str(home / "state"),
            gateway_url=self._gateway_url,
            gateway_socket=str(self._gateway_socket),
            repo_url=await self._repo_url(create.repo, home / _MIRROR) if create.repo else None,
        )

    async def launch(self, create: CreateSandbox, handoff: Handoff) -> WorkerProcess:
        """Start the worker of a sandbox with the shim, and return the state of its process."""
        # Each launch writes its own handoff file. If two gateways launch the worker at the same time, the shim accepts
        # one launch, and the other gateway must not overwrite the file of that launch.
        file = self._home(create.sandbox_id) / "run" / f"handoff-{secrets.token_hex(4)}.json"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(encode(handoff))
        code = await asyncio.to_thread(self._packages.find, create.package)
        argv = [sys.executable, "-m", code.module, "--handoff", str(file)]
        worker = self._worker(create.sandbox_id)
        record = await self._launch(create, worker, argv, limits=_limits(code.limits), code=code)
        if record.state == "exited":
            file.unlink(missing_ok=True)
        return _process(record)

    async def poll(self, sandbox_id: str) -> WorkerProcess | None:
        """Return the state of a sandbox's worker, as reported by the shim; None if the shim has no record of it."""
        record = await self._shim.get(self._worker(sandbox_id))
        return _process(record) if record else None

    async def poll_all(self) -> dict[str, WorkerProcess]:
        """Return the states of the workers of all sandboxes. Other processes of the sandboxes are left out."""
        return {
            record.key.removeprefix(_KEY): _process(record)
            for record in await self._shim.list(_KEY)
            if record.key.count(":") == 1
        }

    async def logs(self, sandbox_id: str, limit: int) -> bytes:
        """Return the last `limit` bytes of the worker's output. Raises `NotFound` if there is no worker."""
        body, _ = await self._shim.output(self._worker(sandbox_id), -limit, limit)
        return body

    async def recorded_events(self, sandbox_id: str) -> int | None:
        """Return the number of events in the worker's state directory; None if the worker has stored no event files."""
        return await asyncio.to_thread(disk.count_events, self._home(sandbox_id) / "state")

    async def run(self, create: CreateSandbox, key: str, command: str, timeout_s: float) -> SandboxOutput:
        """Run a shell command in a sandbox's workspace with the shim, with the worker's isolation and limits.

        A second call with the same key runs nothing and returns the output of the first call.
        """
        if not (self._home(create.sandbox_id) / "workspace").is_dir():
            raise NotFound("the workspace of this sandbox does not exist", field="$.sandbox_id")
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        name = f"{self._worker(create.sandbox_id)}:{digest}"
        limits = await asyncio.to_thread(self._limits, create.package)
        argv = ["/bin/sh", "-c", command]
        await self._launch(create, name, argv, limits=limits, timeout_s=timeout_s, lease_s=None)
        record = await self._shim.wait(name, deadline_s=timeout_s + 15)
        if record.exit_code is None and record.signal is None:
            raise Unavailable(f"the exit code of the sandbox command is unknown: {record.error or 'no exit record'}")
        output, _ = await self._shim.output(name, -MAX_OUTPUT_BYTES, MAX_OUTPUT_BYTES)
        ended_at = record.ended_at or record.started_at
        return SandboxOutput(
            exit_code=_TIMED_OUT if record.stopped_by == "timeout" else _process(record).exit_code or 0,
            output=output.decode(errors="replace"),
            seconds=(ended_at - record.started_at).total_seconds(),
        )

    async def stop(self, sandbox_id: str, grace_s: float) -> WorkerProcess | None:
        """Send SIGTERM to a worker, and SIGKILL `grace_s` seconds later. Returns None if there is no worker."""
        try:
            return _process(await self._shim.stop(self._worker(sandbox_id), grace_s))
        except NotFound:
            return None

    async def delete(self, sandbox_id: str) -> None:
        """Kill a sandbox's processes, delete their records in the shim, and remove the sandbox's directories."""
        prefix = self._worker(sandbox_id)
        for record in await self._shim.list(prefix):
            if record.key == prefix or record.key.startswith(f"{prefix}:"):
                await self._shim.remove(record.key)
        await disk.remove(self._home(sandbox_id))

    async def renew(self, sandbox_ids: Sequence[str]) -> None:
        """Renew the leases of the workers of these sandboxes in the shim."""
        await self._shim.renew(*map(self._worker, sandbox_ids))

    async def exits(self) -> AsyncIterator[str]:
        """Yield the id of a sandbox each time that the shim reports the end of its worker."""
        async for record in self._shim.exits():
            if record.key.startswith(_KEY) and record.key.count(":") == 1:
                yield record.key.removeprefix(_KEY)

    async def _repo_url(self, repo: Repo, copy: Path) -> str:
        """Return the URL that the worker clones. For a local repository, make a copy and return the copy's URL."""
        if await asyncio.to_thread(copy.is_dir):
            return copy.as_uri()
        resolved = await asyncio.to_thread(self._repos.resolve, repo)
        if resolved.path is None:
            return resolved.url
        ended = threading.Event()
        work = partial(mirror, resolved.path, copy, cancelled=ended.is_set)
        try:
            await asyncio.get_running_loop().run_in_executor(self._copies, work)
        finally:
            ended.set()
        return copy.as_uri()

    async def _launch(
        self,
        create: CreateSandbox,
        key: str,
        argv: list[str],
        *,
        limits: Limits,
        code: PackageCode | None = None,
        timeout_s: float | None = None,
        lease_s: float | None = -1.0,
    ) -> ProcessRecord:
        home = self._home(create.sandbox_id)
        readable = [*readable_sources(), str(self._gateway_socket.parent)]
        if (home / _MIRROR).is_dir():
            readable.append(str(home / _MIRROR))
        env = _environment(home / "home")
        if code and code.folder:
            readable.append(str(code.folder))
            env["PYTHONPATH"] = str(code.imports)
        return await self._shim.launch(
            key,
            argv,
            cwd=home / "workspace",
            env=env,
            writable=[home / name for name in ("workspace", "state", "run", "home")],
            readable=readable,
            network=self._network,
            limits=limits,
            lease_s=self._lease_s if lease_s == -1.0 else lease_s,
            timeout_s=create.time_limit_s + _BACKSTOP_S if timeout_s is None else timeout_s,
        )

    def _limits(self, package: str) -> Limits:
        """Return the resource limits of an agent package, or default limits if the package was removed meanwhile."""
        try:
            return _limits(self._packages.find(package).limits)
        except InvalidMessage:
            return Limits()

    def _worker(self, sandbox_id: str) -> str:
        return _KEY + token(sandbox_id, "sandbox_id")

    def _home(self, sandbox_id: str) -> Path:
        return self._root / token(sandbox_id, "sandbox_id")


def _process(record: ProcessRecord) -> WorkerProcess:
    code = record.exit_code if record.exit_code is not None or record.signal is None else 128 + record.signal
    interrupted = record.stopped_by in ("shim", "lease")
    return WorkerProcess(record.state == "running", record.pid, code, record.error, record.isolation, interrupted)


def _limits(resources: Resources) -> Limits:
    return Limits(open_files=resources.open_files, cpu_s=resources.cpu_s, memory_bytes=resources.memory_bytes)


def _environment(home: Path) -> dict[str, str]:
    """Return a worker's environment variables. They contain no secrets, because the agent's commands can read them."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
