"""Chooses the provider of a sandbox: the provider in the sandbox's record, or the default one for a new sandbox."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Protocol

from muster.common.faults import Unavailable
from muster.sandbox_gateway.providers.interface import Provider, WorkerProcess


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


class Providers:
    """The sandbox providers of this gateway, by name. The first provider makes all new sandboxes."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._by_name: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self.default = providers[0]

    def reach(self, record: LocatedSandbox) -> bool:
        """Whether this gateway has the sandbox's provider, and that provider reaches the sandbox's host."""
        provider = self._by_name.get(record.provider)
        return provider is not None and provider.reaches(record.host)

    def of(self, record: LocatedSandbox) -> Provider:
        """Return the provider that made a sandbox. Raises `Unavailable` if this gateway cannot reach the sandbox."""
        if not self.reach(record):
            raise Unavailable("the sandbox is on another host; send the request to the gateway of that host")
        return self._by_name[record.provider]

    async def poll_all(self) -> dict[str, WorkerProcess]:
        """Return the states of the workers of all providers, by sandbox id."""
        found = await asyncio.gather(*(provider.poll_all() for provider in self._by_name.values()))
        return {sandbox_id: process for processes in found for sandbox_id, process in processes.items()}

    async def renew(self, records: Iterable[LocatedSandbox]) -> None:
        """Renew the leases of the workers of these sandboxes, with one call for each provider."""
        wanted = dict[str, list[str]]()
        for record in records:
            wanted.setdefault(record.provider, []).append(record.sandbox_id)
        await asyncio.gather(*(self._by_name[name].renew(ids) for name, ids in wanted.items()))

    def exits(self) -> Iterable[AsyncIterator[str]]:
        """Return one iterator for each provider, which yields the id of each sandbox whose worker ends."""
        return [provider.exits() for provider in self._by_name.values()]
