"""Imports the modules of the configured agent packages once, so that also the first worker of each starts fast."""

import asyncio
from collections.abc import Sequence
from typing import cast

import structlog

from muster.common.faults import Fault
from muster.sandbox_gateway.providers.interface import PreloadingProvider, ProviderCapability
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers

log = structlog.get_logger()


class PackagePreloading:
    """The task that preloads agent packages when the gateway starts. It ends when it is cancelled."""

    def __init__(self, providers: Providers, workers: SandboxWorkers, packages: Sequence[str]) -> None:
        self._providers, self._workers, self._packages = providers, workers, packages

    async def run(self) -> None:
        """Preload each package at each provider that can, and log a package that cannot be preloaded."""
        for provider in self._providers.all():
            if ProviderCapability.PRELOAD in provider.capabilities:
                for package in self._packages:
                    await self._preload(cast("PreloadingProvider", provider), package)
        await asyncio.Event().wait()  # The supervisor of the loops would start a loop that has ended again.

    async def _preload(self, provider: PreloadingProvider, package: str) -> None:
        try:
            why = await self._workers.preload(provider, package)
        except Fault as fault:
            why = str(fault)
        if why:
            log.warning("agent package could not be preloaded", package=package, why=why)
