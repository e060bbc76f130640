"""Makes the loops that bring sandboxes to their desired state, from the gateway's settings."""

from collections.abc import Awaitable, Callable, Sequence

from muster.common.bus.connection import Bus
from muster.common.contracts.model_calls import ModelSettings
from muster.sandbox_gateway.providers.interface import ProviderCapability
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.adapters.tokens import SandboxTokens
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.expiry import SandboxLifetimes
from muster.sandbox_gateway.sandboxes.reconcilers.expiry import SandboxExpiry
from muster.sandbox_gateway.sandboxes.reconcilers.leases import WorkerLeases
from muster.sandbox_gateway.sandboxes.reconcilers.leftovers import HostLeftovers
from muster.sandbox_gateway.sandboxes.reconcilers.orphans import OrphanReaper
from muster.sandbox_gateway.sandboxes.reconcilers.preparations import SandboxPreparations
from muster.sandbox_gateway.sandboxes.reconcilers.record_expiry import RecordDeletion, RecordRenewal
from muster.sandbox_gateway.sandboxes.reconcilers.sandbox_actions import SandboxActions
from muster.sandbox_gateway.sandboxes.reconcilers.sandboxes import SandboxReconciler
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.sandbox_gateway.settings import GatewaySettings

_RENEWALS_PER_LEASE = 4
_BEATS = 3
"""Heartbeats that a worker may miss until nothing is known of it."""


class SandboxLoops:
    """The loops of one gateway process that act on sandboxes."""

    def __init__(
        self,
        settings: GatewaySettings,
        bus: Bus,
        sandboxes: SandboxStore,
        log: SandboxLog,
        fences: FenceStore,
        providers: Providers,
        workers: SandboxWorkers,
        tokens: SandboxTokens,
        model_settings: Callable[[str], ModelSettings],
    ) -> None:
        preparations = SandboxPreparations(sandboxes, fences)
        actions = SandboxActions(
            sandboxes,
            log,
            fences,
            providers,
            workers,
            tokens,
            preparations,
            bus.now,
            beat_running_s=settings.beat_running_s,
            beat_idle_s=settings.beat_idle_s,
            model_deadline_s=settings.model_deadline_s,
            model_settings=model_settings,
            prices=settings.prices,
        )
        self._reconciler = SandboxReconciler(bus, sandboxes, log, fences, providers, actions, preparations)
        self._orphans = OrphanReaper(sandboxes, providers, bus.now, self._reconciler.wake)
        lifetimes = SandboxLifetimes(
            settings.sandbox_ttl_s,
            settings.sandbox_idle_stop_s,
            settings.sandbox_keep_s,
            _BEATS * settings.beat_idle_s,
        )
        self._expiry = SandboxExpiry(bus, sandboxes, providers, lifetimes)
        elsewhere = [one for one in providers.all() if ProviderCapability.HOST_CODE not in one.capabilities]
        home = settings.data_dir.resolve()
        self._leftovers = HostLeftovers(
            sandboxes, bus.now, staging=[home / one.name for one in elsewhere], code=home / "code"
        )
        every_s = settings.lease_s / _RENEWALS_PER_LEASE
        self._leases = WorkerLeases(sandboxes, fences, providers, every_s=every_s)
        self._record_deletion = RecordDeletion(sandboxes, bus.now)
        self._record_renewal = RecordRenewal(sandboxes, fences, providers, bus.now)

    def left_sandboxes(self) -> Sequence[str]:
        """Return the sandboxes at providers that have no record and are left, because the record may be lost."""
        return self._orphans.left()

    def problems(self) -> Sequence[str]:
        """Return why recorded sandboxes cannot be reached with the present settings, one sentence for each provider."""
        return self._orphans.problems()

    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the loops by their names in the process's log."""
        return {
            "sandbox reconciler": self._reconciler.run,
            "worker leases": self._leases.run,
            "orphaned sandboxes": self._orphans.run,
            "sandbox expiry": self._expiry.run,
            "leftovers on this host": self._leftovers.run,
            "record deletion": self._record_deletion.run,
            "record renewal": self._record_renewal.run,
        }
