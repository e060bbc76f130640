"""Starts a sandbox at its provider again before its content is read, if it was stopped there after its worker ended."""

from datetime import timedelta

from muster.common.clock import Clock
from muster.sandbox_gateway.providers.interface import Provider
from muster.sandbox_gateway.providers.registry import LocatedSandbox, Providers
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.cost import counting
from muster.sandbox_gateway.sandboxes.domain.expiry import at_rest_used_until
from muster.sandbox_gateway.sandboxes.domain.lifecycle import AT_REST
from muster.sandbox_gateway.sandboxes.store import SandboxStore


class SandboxResumption:
    """Makes sandboxes at rest readable, and records that they are in use."""

    def __init__(self, sandboxes: SandboxStore, providers: Providers, workers: SandboxWorkers, now: Clock) -> None:
        self._sandboxes, self._providers, self._workers, self._now = sandboxes, providers, workers, now

    def provider_as_is(self, located: LocatedSandbox) -> Provider:
        """Return the provider of a sandbox, and leave the sandbox stopped if it is stopped. Raises `Unavailable`."""
        return self._providers.of(located)

    async def provider_of(self, located: LocatedSandbox, *, for_s: float = 0.0) -> Provider:
        """Return the provider of a sandbox whose content is read or changed, and start the sandbox if it is stopped.

        The sandbox is not stopped again during the next `for_s` seconds.
        """
        provider, sandbox_id = self._providers.of(located), located.sandbox_id
        record = await self._sandboxes.get(sandbox_id)
        if record is None or record.state not in AT_REST or record.wanted == "deleted":
            return provider
        until = self._now() + timedelta(seconds=for_s)
        await self._sandboxes.change(sandbox_id, lambda now: at_rest_used_until(now, until))
        found = await provider.get(sandbox_id)
        if found is not None and not found.running:
            await provider.ensure(self._workers.spec(record.create))
            await self._sandboxes.change(sandbox_id, lambda now: counting(now, self._now(), None))
        return provider
