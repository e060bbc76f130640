"""The composition root of the sandbox gateway: opens connections, connects the parts, and registers the endpoints."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.service import Service
from muster.common.connection_limits import ConnectionLimits
from muster.common.contracts import gateway as wire
from muster.common.contracts.sandbox_commands import EndCommand, ReadCommand, StartCommand
from muster.common.http import listening_socket, serving, unix_socket
from muster.common.supervision import supervise, until_told_to_stop
from muster.sandbox_gateway.egress.wiring import Egress, network_policy
from muster.sandbox_gateway.files import wiring as files
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.app import GatewayApp
from muster.sandbox_gateway.http.request_allowance import CONNECTIONS, MOST_ANONYMOUS, SandboxAllowances
from muster.sandbox_gateway.messages.handlers import MessageRequests
from muster.sandbox_gateway.messages.routes import InboxRoutes
from muster.sandbox_gateway.messages.store.inbox import InboxStore
from muster.sandbox_gateway.messages.store.notifier import InboxNotifier
from muster.sandbox_gateway.models import wiring as models
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.providers.local.host_id import host_id
from muster.sandbox_gateway.providers.packages import Packages
from muster.sandbox_gateway.providers.registry import Providers, ProviderSetting, opened_providers
from muster.sandbox_gateway.providers.worker_code import WorkerCode
from muster.sandbox_gateway.repositories.wiring import repositories
from muster.sandbox_gateway.sandbox_log.adapters.known_secrets import known_secrets
from muster.sandbox_gateway.sandbox_log.adapters.payload_files import PayloadFiles
from muster.sandbox_gateway.sandbox_log.domain.redaction import SecretRedactor
from muster.sandbox_gateway.sandbox_log.handlers import FENCE_S, FenceRequests
from muster.sandbox_gateway.sandbox_log.routes.openhands_webhooks import OpenHandsWebhooks
from muster.sandbox_gateway.sandbox_log.routes.payload_uploads import PayloadUploads
from muster.sandbox_gateway.sandbox_log.routes.worker_posts import LogRoutes
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandbox_log.store.payloads import PayloadStore
from muster.sandbox_gateway.sandbox_log.store.unnumbered import UnnumberedEvents
from muster.sandbox_gateway.sandbox_log.store.zombies import ZombieWrites
from muster.sandbox_gateway.sandboxes.adapters.tokens import SandboxTokens
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring
from muster.sandbox_gateway.sandboxes.handlers.commands import COMMAND_S, SandboxCommands
from muster.sandbox_gateway.sandboxes.handlers.exec import EXEC_S, SandboxExec
from muster.sandbox_gateway.sandboxes.handlers.lifecycle import DELETE_S, STOP_S, SandboxLifecycle
from muster.sandbox_gateway.sandboxes.handlers.queries import VERIFY_S, SandboxQueries
from muster.sandbox_gateway.sandboxes.handlers.resumption import SandboxResumption
from muster.sandbox_gateway.sandboxes.reconcilers.gateway_presence import GatewayPresence
from muster.sandbox_gateway.sandboxes.reconcilers.preloading import PackagePreloading
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.sandbox_gateway.sandboxes.wiring import SandboxLoops
from muster.sandbox_gateway.settings import GatewaySettings
from muster.sandbox_gateway.streams import GatewayStreams

NAME = "sandbox_gateway"
_LONGEST_GRACE_S = 60.0


class SandboxGateway:
    """All parts of one gateway process: stores, background loops, HTTP application and handlers of NATS requests."""

    def __init__(self, settings: GatewaySettings, bus: Bus, providers: Providers) -> None:
        self._settings, self._bus, self._providers = settings, bus, providers
        self._instance = secrets.token_hex(4)
        configured = models.configured_models(settings)
        self.model_threads = ModelThreads()
        self._names = ModelNames(settings.added_providers, configured.get)
        self._models = models.model_providers(settings, self.model_threads, configured, self._names, bus.now)
        self._keyring = Keyring.parsed(settings.token_keys.get_secret_value())
        self._fences, self._sandboxes, self._payloads = FenceStore(bus), SandboxStore(bus), _payloads(settings, bus)
        buckets = (self._fences, self._sandboxes, self._payloads)
        self.streams = GatewayStreams(bus, buckets, log_max_bytes=settings.log_max_bytes)
        self._headroom = Headroom(bus, max_bytes=settings.log_max_bytes)
        self._log = SandboxLog(bus, self._headroom)
        self._zombie_writes, self._calls = ZombieWrites(bus, self._instance), ModelCallStore(bus, bus.now)
        self._inbox, self.notifier = InboxStore(bus), InboxNotifier(bus)
        self._fences.on_fence(self.notifier.wake)
        copies, self._deliveries = repositories(settings)
        code, policy = WorkerCode(settings.data_dir.resolve() / "code"), network_policy(settings)
        packages = Packages(settings.packages, settings.most_resources)
        self._workers = SandboxWorkers(packages, copies, code, policy, ttl_s=settings.sandbox_ttl_s)
        self._tokens = SandboxTokens(self._keyring, policy, bus.now, ttl_s=settings.token_ttl_s)
        self._sandbox_loops = SandboxLoops(
            settings,
            bus,
            self._sandboxes,
            self._log,
            self._fences,
            providers,
            self._workers,
            self._tokens,
            self._models.settings,
        )
        self._access = WorkerAccess(
            self._keyring, self._fences, self._zombie_writes, self._log, bus.now, SandboxAllowances(time.monotonic)
        )
        self._egress = Egress(policy, self._log, self._fences, time.monotonic)
        self._presence = GatewayPresence(bus, self._instance)

    def app(self) -> GatewayApp:
        """Make the HTTP application that answers the requests of workers."""
        access = self._access
        completions = models.completion_routes(
            self._settings, self._bus, self._log, self._inbox, access, self._models, self._names, self._calls
        )
        redactor = SecretRedactor(lambda: known_secrets(self._settings, os.environ), time.monotonic)
        log = LogRoutes(self._bus, self._log, access, redactor, self._payloads, self._egress.connection_log.settle)
        unnumbered = UnnumberedEvents(self._bus, self._log)
        webhooks = OpenHandsWebhooks(unnumbered, access, redactor, self._payloads, self._bus.now)
        files = PayloadFiles(self._settings.data_dir.resolve() / "payloads", redactor)
        uploads = PayloadUploads(self._payloads, files, access)
        inbox = InboxRoutes(self._inbox, self.notifier, access, self._bus.now)
        return GatewayApp(
            {
                "events": ("POST", log.events),
                "finished": ("POST", log.finished),
                "beat": ("POST", log.beat),
                "inbox": ("GET", inbox.inbox),
            },
            completions.complete,
            webhooks={"events": webhooks.events, "conversations": webhooks.conversations},
            upload=uploads.upload,
            ready=lambda: self.streams.ready and self._bus.connected.is_set(),
            health=self._health,
        )

    async def _health(self) -> Mapping[str, object]:
        return {
            "nearly_full": self._headroom.nearly_full,
            "problems": [*self._providers.problems(), *self._sandbox_loops.problems()],
            "providers": await self._providers.health(),
            "left_sandboxes": self._sandbox_loops.left_sandboxes(),
        }

    def proxy(self) -> AbstractAsyncContextManager[None]:
        """Serve the proxy through which sandboxes reach the hosts of their allow-list, while the block runs."""
        return self._egress.serving(unix_socket(self._settings.egress_socket), self._keyring, self._access)

    def register_handlers(self, service: Service) -> None:
        """Register the handlers of the requests that other services send over NATS."""
        lifecycle = SandboxLifecycle(
            self._sandboxes, self._providers, self._workers, self._models, self._deliveries.check, self._bus.now
        )
        fencing = FenceRequests(self._log, self._fences, self._bus.now)
        resumption = SandboxResumption(self._sandboxes, self._providers, self._workers, self._bus.now)
        sandbox_exec = SandboxExec(self._sandboxes, self._log, self._workers, self._tokens, resumption, self._bus.now)
        messages = MessageRequests(self._sandboxes, self._log, self._fences, self._inbox, self.notifier)
        queries = SandboxQueries(
            self._sandboxes, self._log, self._fences, self._payloads, self._calls.cost_of, self._bus.now
        )
        service.handles(wire.CreateSandbox, lifecycle.create)
        service.handles(wire.StopSandbox, lifecycle.stop, deadline_s=_LONGEST_GRACE_S + STOP_S + 5)
        service.handles(wire.DeleteSandbox, lifecycle.delete, deadline_s=DELETE_S + 5)
        service.handles(wire.FenceSandbox, fencing.fence, deadline_s=FENCE_S)
        service.handles(wire.CollectEvidence, sandbox_exec.evidence, deadline_s=10.0)
        service.handles(wire.ExecInSandbox, sandbox_exec.exec, deadline_s=EXEC_S)
        commands = SandboxCommands(sandbox_exec, self._workers, self._tokens, resumption)
        service.handles(StartCommand, commands.start, deadline_s=COMMAND_S)
        service.handles(ReadCommand, commands.read, deadline_s=COMMAND_S)
        service.handles(EndCommand, commands.end, deadline_s=COMMAND_S)
        service.handles(wire.DeliverResult, self._deliveries.deliver, deadline_s=3 * self._settings.git_deadline_s)
        service.handles(wire.SendMessage, messages.send)
        service.handles(wire.CheckSandbox, lifecycle.check)
        service.handles(wire.GetSandbox, queries.get)
        service.handles(wire.ListSandboxes, queries.list)
        service.handles(wire.VerifySandbox, queries.verify, deadline_s=VERIFY_S)
        files.register_handlers(service, self._sandboxes, resumption.provider_of)

    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the background loops of this process. The keys are the loops' names in the process's log."""
        return {
            "streams": self.streams.run,
            "fences": self._fences.run,
            "sandbox records": self._sandboxes.run,
            "inbox notifier": self.notifier.run,
            **self._sandbox_loops.loops(),
            "record of connections": self._egress.connection_log.run,
            "gateway presence": self._presence.run,
            "audit of late writes": self._zombie_writes.run,
            "package preloading": PackagePreloading(self._providers, self._workers, self._settings.preloaded).run,
            "model preparation": self._models.run,
            "model call meter": self._calls.run,
            "model call settlement": self._calls.run_settling,
        }


def _payloads(settings: GatewaySettings, bus: Bus) -> PayloadStore:
    return PayloadStore(
        bus, max_bytes=settings.payloads_max_bytes, sandbox_max_bytes=settings.payloads_sandbox_max_bytes
    )


def _provider_setting(settings: GatewaySettings) -> ProviderSetting:
    return ProviderSetting(
        deployment=settings.deployment or host_id(settings.data_dir),
        data_dir=settings.data_dir.resolve(),
        gateway_url=settings.url,
        gateway_socket=settings.gateway_socket.resolve(),
        shim_socket=settings.shim_socket,
        lease_s=settings.lease_s,
        network=settings.sandbox_network,
        isolation_at_least=settings.isolation_at_least,
        egress_socket=settings.egress_socket.resolve(),
        disk_floor_bytes=settings.disk_floor_bytes,
    )


async def run(settings: GatewaySettings) -> None:
    """Run the sandbox gateway until the process receives a signal to stop."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(
            open_bus(
                settings.nats_url.get_secret_value(), NAME, credentials=settings.nats_credentials, tls=settings.nats_tls
            )
        )
        providers = await opened_providers(settings.provider_names, _provider_setting(settings), stack)
        gateway = SandboxGateway(settings, bus, providers)
        stack.callback(gateway.model_threads.close)
        await gateway.streams.ensure()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        sockets = [
            listening_socket(fd=settings.http_fd, host=settings.http_host, port=settings.http_port),
            unix_socket(settings.gateway_socket),
        ]
        loops = [tasks.create_task(supervise(name, run)) for name, run in gateway.loops().items()]
        service = Service(NAME, bus, drain_s=settings.drain_s)
        gateway.register_handlers(service)
        limits = ConnectionLimits(anonymous=MOST_ANONYMOUS, per_owner=CONNECTIONS)
        async with gateway.proxy(), serving(gateway.app(), sockets, grace_s=settings.drain_s, limits=limits), service:
            await until_told_to_stop()
            # The long polls must end now, because the HTTP server waits for open requests when it stops.
            gateway.notifier.close()
        for loop in loops:
            loop.cancel()
