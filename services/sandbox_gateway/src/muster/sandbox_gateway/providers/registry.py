"""Opens the providers of this gateway, and chooses the provider of a sandbox.

A provider is registered by an entry point of the group `muster.providers`. Its value is a function that takes a
`ProviderSetting` and returns an asynchronous context manager of the provider.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from muster.common.contracts.task_spec import NetworkMode
from muster.common.faults import Fault, InvalidMessage, Unavailable
from muster.common.isolation_levels import STRONGEST, IsolationLevel
from muster.sandbox_gateway.providers.interface import (
    ExplainingProvider,
    ProcessState,
    Provider,
    WatchedProvider,
)

log = structlog.get_logger()

GROUP = "muster.providers"
_FIELD = "$.provider"


class ProviderSetting(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the gateway that a provider may need. A provider reads its own settings from the environment."""

    deployment: str
    """Name of this deployment. A provider acts only on sandboxes that carry it."""
    data_dir: Path
    gateway_url: str
    """URL at which sandboxes with a network reach the gateway."""
    gateway_socket: Path
    shim_socket: Path
    lease_s: float
    network: NetworkMode
    """The most that any sandbox may reach."""
    isolation_at_least: IsolationLevel = STRONGEST
    """The weakest isolation with which the shim may run processes."""
    egress_socket: Path | None = None
    """Unix socket of the proxy through which sandboxes without a network reach the hosts of their allow-list."""
    disk_floor_bytes: int = 0
    """Free disk space that a provider keeps on the gateway's host."""


OpenProvider = Callable[[ProviderSetting], AbstractAsyncContextManager[Provider]]


class LocatedSandbox(Protocol):
    """The fields of a sandbox's record that name its provider and its host."""

    @property
    def sandbox_id(self) -> str:
        """The id of the sandbox."""
        ...

    @property
    def provider(self) -> str:
        """The name of the provider that made the sandbox."""
        ...

    @property
    def host(self) -> str:
        """The host on which the sandbox was made."""
        ...


async def opened_providers(names: Sequence[str], setting: ProviderSetting, stack: AsyncExitStack) -> "Providers":
    """Open the providers with these names until `stack` ends. Raises `InvalidMessage` for an unregistered name."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    opened = list[Provider]()
    for name in names:
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise InvalidMessage(
                f"no installed package has a provider {name!r}; the installed ones are: {known}", field="$.providers"
            )
        open_provider: OpenProvider = found[name].load()
        opened.append(await stack.enter_async_context(open_provider(setting)))
    return Providers(opened)


class Providers:
    """The sandbox providers of this gateway, by name. The first one makes the sandboxes of tasks that name none."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._by_name: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self.default = providers[0]

    def named(self, name: str | None) -> Provider:
        """Return the provider for a new sandbox. Raises `InvalidMessage` if this gateway does not have it."""
        if name is None:
            return self.default
        if name not in self._by_name:
            raise InvalidMessage(
                f"this deployment has no provider {name!r}; it has {', '.join(self._by_name)} (MUSTER_PROVIDERS)",
                field=_FIELD,
            )
        return self._by_name[name]

    def reach(self, record: LocatedSandbox) -> bool:
        """Whether this gateway has the sandbox's provider, and that provider reaches the sandbox's host."""
        provider = self._by_name.get(record.provider)
        return provider is not None and provider.reaches(record.host)

    def of(self, record: LocatedSandbox) -> Provider:
        """Return the provider that made a sandbox. Raises `Unavailable` if this gateway cannot reach the sandbox."""
        if not self.reach(record):
            raise Unavailable("the sandbox is on another host; send the request to the gateway of that host")
        return self._by_name[record.provider]

    async def poll_all(self) -> dict[str, dict[str, ProcessState]]:
        """Return the states of all workers by sandbox id, for each provider that answers."""
        names = list(self._by_name)
        found = await asyncio.gather(*(_polled(provider) for provider in self._by_name.values()))
        return {name: states for name, states in zip(names, found, strict=True) if states is not None}

    async def touch(self, records: Iterable[LocatedSandbox]) -> None:
        """Say that these sandboxes are in use, with one call for each provider. Raises the first provider's fault."""
        wanted = dict[str, list[str]]()
        for record in records:
            wanted.setdefault(record.provider, []).append(record.sandbox_id)
        touched = (self._by_name[name].touch(ids) for name, ids in wanted.items())
        faults = [fault for fault in await asyncio.gather(*touched, return_exceptions=True) if fault is not None]
        if faults:
            raise faults[0]

    def exits(self) -> Iterable[AsyncIterator[str]]:
        """Return one iterator for each provider, which yields the id of each sandbox whose worker ends."""
        return [provider.exits() for provider in self._by_name.values()]

    async def health(self) -> Mapping[str, Mapping[str, str]]:
        """Return the isolation of each provider that knows the reason for it, by the provider's name."""
        known = {name: one for name, one in self._by_name.items() if isinstance(one, ExplainingProvider)}
        found = await asyncio.gather(*(provider.health() for provider in known.values()))
        return dict(zip(known, found, strict=True))

    def problems(self) -> Sequence[str]:
        """Return why providers make no new sandboxes at present, one sentence for each."""
        watched = (provider for provider in self._by_name.values() if isinstance(provider, WatchedProvider))
        return [problem for provider in watched if (problem := provider.problem())]

    def all(self) -> Sequence[Provider]:
        """Return the providers of this gateway, the default one first."""
        return list(self._by_name.values())


async def _polled(provider: Provider) -> dict[str, ProcessState] | None:
    """Return the workers' states, or None if the provider fails: one that is down must not hide the others."""
    try:
        return await provider.poll_all()
    except Fault as fault:
        log.warning("poll of the states of all workers failed", provider=provider.name, error=str(fault))
    except Exception:  # a bug of one provider must not end the loop of all sandboxes
        log.exception("poll of a provider raised an unexpected error", provider=provider.name)
    return None
