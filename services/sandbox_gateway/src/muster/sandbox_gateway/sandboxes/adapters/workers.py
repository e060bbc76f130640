"""Starts workers and commands in the sandboxes of any provider, with the calls that all providers have."""

import asyncio
import hashlib
import math
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from muster.common.contract import encode
from muster.common.contracts.gateway import CreateSandbox, SandboxOutput
from muster.common.contracts.packages import Resources
from muster.common.contracts.task_spec import Network, Repo
from muster.common.contracts.worker_api import Handoff, ProxyHandoff
from muster.common.faults import InvalidMessage, Unavailable
from muster.common.worker_variables import is_reserved
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy
from muster.sandbox_gateway.providers.interface import (
    WORKER,
    PreloadingProvider,
    ProcessSpec,
    ProcessState,
    Provider,
    ProviderCapability,
    SandboxLayout,
    SandboxSpec,
)
from muster.sandbox_gateway.providers.packages import PackageCode, Packages
from muster.sandbox_gateway.providers.worker_code import WorkerCode
from muster.sandbox_gateway.repositories.adapters.copies import RepositoryCopies
from muster.sandbox_gateway.sandboxes.domain.tokens import after_cut_line, redacted

MAX_OUTPUT_BYTES = 256 << 10
_BACKSTOP_S = 900.0
"""Seconds after the task's timeout at which the provider ends a worker that is still running."""
TIMED_OUT = 124
_MIRROR = "repo.git"

HandoffFor = Callable[[SandboxLayout, str | None], Handoff]
"""Makes the handoff from the sandbox's layout and the URL of the repository that the worker clones."""


class PreparedSandbox(msgspec.Struct, frozen=True):
    """A sandbox that was made, with the repository that its worker clones."""

    layout: SandboxLayout
    repo_url: str | None = None
    readable: list[str] = []
    """Paths that the worker reads to clone the repository."""
    notes: list[str] = []
    """Sentences about parts of the repository that the clone lacks."""


class SandboxWorkers:
    """Makes sandboxes with their agent package, repository and handoff, and runs workers and commands in them."""

    def __init__(
        self,
        packages: Packages,
        repositories: RepositoryCopies,
        code: WorkerCode,
        policy: NetworkPolicy,
        *,
        ttl_s: float = math.inf,
    ) -> None:
        """Set the parts. `ttl_s` is the longest time that the gateway lets a sandbox exist."""
        self._ttl_s = ttl_s
        self._packages, self._repositories, self._code, self._policy = packages, repositories, code, policy

    def check(self, package: str, repo: Repo | None, network: Network | None) -> None:
        """Raise `InvalidMessage` if a sandbox with this package, repository and network can never start.

        May read the disk.
        """
        self._packages.find(package)
        self._policy.check(network)
        if repo is not None:
            self._repositories.check(repo)

    def wanted_provider(self, package: str) -> str | None:
        """Return the provider that an agent package asks for, if any. Raises `InvalidMessage` for an unknown one."""
        return self._packages.find(package).provider

    async def start(
        self, provider: Provider, create: CreateSandbox, prepared: PreparedSandbox, handoff_for: HandoffFor
    ) -> ProcessState:
        """Start the worker of a sandbox unless it was started before. Return the state of the worker."""
        if (known := await provider.poll(create.sandbox_id)) is not None:
            return known
        layout = prepared.layout
        code = await asyncio.to_thread(self._packages.find, create.package)
        paths, env = await self._imports(provider, create.sandbox_id, code)
        # Each launch writes its own handoff file. If two gateways launch the worker at the same time, the provider
        # accepts one launch, and the other gateway must not overwrite the file of that launch.
        file = f"{layout.run_dir}/handoff-{secrets.token_hex(4)}.json"
        handoff = handoff_for(layout, prepared.repo_url)
        # In the objective, the agent reads what the clone lacks, and the log of the sandbox shows it.
        handoff = msgspec.structs.replace(handoff, objective="\n\n".join([handoff.objective, *prepared.notes]))
        await provider.put(create.sandbox_id, file, _once(encode(handoff)))
        process = ProcessSpec(
            key=WORKER,
            argv=[layout.python, "-P", "-m", code.module, "--handoff", file],
            cwd=layout.workspace,
            env=_variables(create) | env,
            readable=[*prepared.readable, *paths],
            limits=code.limits,
            host_network=self._policy.mode_of(create.network) == "host",
            module=code.module,
            preload=code.preload,
            timeout_s=create.time_limit_s + _BACKSTOP_S,
            leased=True,
        )
        state = await provider.launch(create.sandbox_id, process)
        if not state.running:  # The worker has not read the file, or has ended since then.
            await provider.discard(create.sandbox_id, file)
        return state

    async def preload(self, provider: PreloadingProvider, package: str) -> str | None:
        """Import the modules of an agent package before its first worker starts.

        Return the reason if its workers start without that. Raises `InvalidMessage` for an unknown package.
        """
        code = await asyncio.to_thread(self._packages.find, package)
        env = {"PYTHONPATH": str(code.imports)} if code.folder else {}
        readable = [str(code.folder)] if code.folder else []
        process = ProcessSpec(
            key=WORKER, argv=[], cwd="", env=env, readable=readable, preload=code.preload, timeout_s=_BACKSTOP_S
        )
        return await provider.preload(process)

    async def prepare(self, provider: Provider, create: CreateSandbox) -> PreparedSandbox:
        """Make the sandbox with a copy of its repository."""
        layout = await provider.ensure(self.spec(create))
        if create.repo is None:
            return PreparedSandbox(layout)
        copy = provider.staging(create.sandbox_id) / _MIRROR
        await self._repositories.copy_for(create.repo, copy)
        notes = await self._repositories.missing_parts(copy, create.repo)
        inside = await provider.provide(create.sandbox_id, _MIRROR, copy)
        return PreparedSandbox(layout, Path(inside).as_uri(), [inside], list(notes))

    async def run(
        self, provider: Provider, create: CreateSandbox, key: str, command: str, timeout_s: float, *, token: str
    ) -> SandboxOutput:
        """Run a shell command in a sandbox's workspace, with the worker's isolation, limits and network.

        A second call with the same key runs nothing and returns the output of the first call. `token` is a token of the
        sandbox, for the proxy. Raises `NotFound` if the workspace does not exist.
        """
        process, file = await self._command(provider, create, key, command, timeout_s, token=token)
        try:
            return await self._output(provider, create.sandbox_id, process)
        finally:
            if file is not None:  # A repeated request starts no relay that would delete it.
                await provider.discard(create.sandbox_id, file)

    async def start_command(
        self, provider: Provider, create: CreateSandbox, key: str, command: str, timeout_s: float, *, token: str
    ) -> ProcessState:
        """Start a shell command as `run` does, and return its state at once. A repeated key starts nothing."""
        if (known := await provider.poll(create.sandbox_id, process_key(key))) is not None:
            return known
        process, file = await self._command(provider, create, key, command, timeout_s, token=token)
        state = await provider.launch(create.sandbox_id, process)
        if file is not None and not state.running:
            await provider.discard(create.sandbox_id, file)
        return state

    async def _command(
        self, provider: Provider, create: CreateSandbox, key: str, command: str, timeout_s: float, *, token: str
    ) -> tuple[ProcessSpec, str | None]:
        """Return the process of a shell command, and the file with the token that its relay reads, if it has one."""
        layout = await provider.layout(create.sandbox_id)
        readable = [str(copy)] if (copy := provider.staging(create.sandbox_id) / _MIRROR).is_dir() else []
        process = ProcessSpec(
            key=process_key(key),
            argv=["/bin/sh", "-c", command],
            cwd=layout.workspace,
            env=_variables(create),
            readable=readable,
            limits=await asyncio.to_thread(self._limits, create.package),
            host_network=self._policy.mode_of(create.network) == "host",
            timeout_s=timeout_s,
        )
        if layout.egress_socket is None or self._policy.mode_of(create.network) != "allow-list":
            return process, None
        # The command reaches the proxy by a relay, which reads the token from a file and deletes the file.
        file = f"{layout.run_dir}/command-{secrets.token_hex(4)}.json"
        handed_over = ProxyHandoff(egress_socket=layout.egress_socket, token=token)
        await provider.put(create.sandbox_id, file, _once(encode(handed_over)))
        # Without `-P`, Python would import modules of this program from the workspace.
        relay = [layout.python, "-P", "-m", "muster.agent.proxied_command", "--handoff", file, "--"]
        return msgspec.structs.replace(process, argv=[*relay, *process.argv]), file

    async def _output(self, provider: Provider, sandbox_id: str, process: ProcessSpec) -> SandboxOutput:
        await provider.launch(sandbox_id, process)
        ended = await provider.wait(sandbox_id, process.key, deadline_s=process.timeout_s + 15)
        if ended.exit_code is None:
            raise Unavailable(f"the exit code of the sandbox command is unknown: {ended.error or 'no exit record'}")
        page = await provider.logs(sandbox_id, process.key, offset=-MAX_OUTPUT_BYTES, limit=MAX_OUTPUT_BYTES)
        shown = after_cut_line(page.body) if page.next_offset > len(page.body) else page.body
        return SandboxOutput(
            exit_code=TIMED_OUT if ended.timed_out else ended.exit_code,
            output=redacted(shown.decode(errors="replace")),
            seconds=ended.seconds,
        )

    async def _imports(
        self, provider: Provider, sandbox_id: str, code: PackageCode
    ) -> tuple[list[str], dict[str, str]]:
        """Return the paths with the package's code in the sandbox, and the environment variables that name them."""
        if ProviderCapability.HOST_CODE in provider.capabilities:
            return ([str(code.folder)], {"PYTHONPATH": str(code.imports)}) if code.folder else ([], {})
        bundle = await asyncio.to_thread(self._code.bundle, code)
        inside = await provider.provide(sandbox_id, "code", bundle)
        return [inside], {"PYTHONPATH": inside}

    def spec(self, create: CreateSandbox) -> SandboxSpec:
        """Return the sandbox that a provider shall make for this command."""
        return SandboxSpec(
            sandbox_id=create.sandbox_id,
            labels={"task": create.task_id, "agent": create.agent_id, "epoch": str(create.epoch)},
            network=self._policy.mode_of(create.network),
            hosts=self._policy.hosts(create.network),
            lifetime_s=min(create.time_limit_s + 2 * _BACKSTOP_S, self._ttl_s + _BACKSTOP_S),
        )

    def _limits(self, package: str) -> Resources:
        """Return the resource limits of an agent package, or default limits if the package was removed meanwhile."""
        try:
            return self._packages.find(package).limits
        except InvalidMessage:
            return self._packages.default_limits


def process_key(key: str) -> str:
    """Return the key under which a provider knows the process of a command with this key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _variables(create: CreateSandbox) -> dict[str, str]:
    """Return the task's environment variables, without those that an older release accepted and Muster sets itself."""
    return {name: value for name, value in create.env.items() if not is_reserved(name)}


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
