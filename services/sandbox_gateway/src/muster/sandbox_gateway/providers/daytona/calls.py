"""Calls of Daytona's API for the sandboxes of one deployment: find, make, start, stop and delete.

Each sandbox has the name `{deployment}-{sandbox_id}`, which Daytona keeps unique. So a creation whose answer was lost
is found by its name. All sandboxes get an auto-stop, an auto-delete and a time to live, so that none is billed for ever
if every gateway is gone.
"""

import asyncio
import ipaddress
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from daytona import (
    AsyncDaytona,
    AsyncSandbox,
    CreateSandboxFromSnapshotParams,
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaConnectionError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaTimeoutError,
    ListSandboxesQuery,
    SandboxState,
)

from muster.common.faults import Conflict, InvalidMessage, NotFound, Unavailable
from muster.sandbox_gateway.provider_settings import DaytonaSettings
from muster.sandbox_gateway.providers.daytona.answer_size import bound_answers
from muster.sandbox_gateway.providers.daytona.faults import fault_of, translated
from muster.sandbox_gateway.providers.errors import AccessRefused, ProviderBusy, QuotaExceeded
from muster.sandbox_gateway.providers.interface import SandboxSpec

CALL_S = 30.0
"""Seconds that one call may take. The SDK's calls have no deadline of their own."""
CREATE_S = 120.0
DEPLOYMENT, SANDBOX = "muster.deployment", "muster.sandbox"
"""Labels of each sandbox. The gateway acts only on sandboxes with the label of its deployment."""
_MINUTE_S = 60.0
_GONE = (SandboxState.DESTROYED, SandboxState.DESTROYING)
_FAILED = (SandboxState.ERROR, SandboxState.BUILD_FAILED)
_LOST_ANSWER = (DaytonaConflictError, DaytonaConnectionError, DaytonaTimeoutError)


class DaytonaCalls:
    """The sandboxes of one deployment at Daytona. Methods raise the faults of a provider."""

    def __init__(
        self,
        client: AsyncDaytona,
        settings: DaytonaSettings,
        *,
        deployment: str,
        gateway_url: str,
        monotonic: Callable[[], float],
    ) -> None:
        bound_answers(client)
        self._client, self._settings, self._deployment = client, settings, deployment
        self._gateway_host, self._monotonic = urlsplit(gateway_url).hostname or "", monotonic
        self._created_at = deque[float](maxlen=settings.daytona_creates_per_minute)

    def name(self, sandbox_id: str) -> str:
        """Return the name of a sandbox at Daytona."""
        return f"{self._deployment}-{sandbox_id}"

    async def find(self, sandbox_id: str) -> AsyncSandbox | None:
        """Return a sandbox with its present state, or None if Daytona does not have it or is removing it."""
        try:
            with translated(f"get {self.name(sandbox_id)}"):
                found = await self._client.get(self.name(sandbox_id), request_timeout=CALL_S)
        except NotFound:
            return None
        self._check_owner(found, sandbox_id)
        return None if found.state == SandboxState.DESTROYED else found

    async def each(self) -> AsyncIterator[AsyncSandbox]:
        """Yield the sandboxes of this deployment. Daytona's list may lag some seconds behind."""
        with translated("list sandboxes"):
            query = ListSandboxesQuery(labels={DEPLOYMENT: self._deployment}, limit=100)
            async for sandbox in self._client.list(query, request_timeout=CALL_S):
                if sandbox.labels.get(DEPLOYMENT) == self._deployment and sandbox.state not in _GONE:
                    yield sandbox

    async def running(self, spec: SandboxSpec) -> AsyncSandbox:
        """Return the sandbox of this key in the state `started`. Make, start or recover it if that is necessary."""
        found = await self.find(spec.sandbox_id)
        if found is None:
            found = await self._created(spec)
        match found.state:
            case SandboxState.STARTED:
                return found
            case state if state in _FAILED:
                await self._recover(found, spec.sandbox_id)
            case SandboxState.DESTROYING:
                raise Unavailable(f"Daytona is still removing {found.name}; the gateway tries again")
            case SandboxState.STOPPED | SandboxState.ARCHIVED | SandboxState.PAUSED:
                with translated(f"start {found.name}"):
                    await found.start(timeout=CREATE_S)
            case _:
                with translated(f"wait for {found.name}"):
                    await found.wait_for_sandbox_start(timeout=CREATE_S)
        return found

    async def fork(self, source: AsyncSandbox, sandbox_id: str) -> None:
        """Make a sandbox of this deployment with the files of another one."""
        with translated(f"fork {source.name}"):
            made = await source.fork(name=self.name(sandbox_id), timeout=CREATE_S)
            labels = {**source.labels, DEPLOYMENT: self._deployment, SANDBOX: sandbox_id}
            await made.set_labels(labels, request_timeout=CALL_S)

    async def delete(self, sandbox_id: str) -> None:
        """Remove a sandbox. Raises `Unavailable` until it is gone, because Daytona may take long or get stuck."""
        found = await self.find(sandbox_id)
        if found is None:
            return
        if found.state != SandboxState.DESTROYING:
            with translated(f"delete {found.name}"):
                await found.delete(timeout=CALL_S, wait=False)
        if (left := await self.find(sandbox_id)) is not None:
            raise Unavailable(f"Daytona has not removed {left.name} yet (state {left.state}); the gateway tries again")

    async def _created(self, spec: SandboxSpec) -> AsyncSandbox:
        self._take_turn()
        name = self.name(spec.sandbox_id)
        try:
            return await self._client.create(self._params(spec), timeout=CREATE_S)
        except _LOST_ANSWER as error:
            # The answer was lost, or another gateway was faster: the name tells whether the sandbox exists.
            if (found := await self.find(spec.sandbox_id)) is not None:
                return found
            raise fault_of(error, f"create {name}") from error
        except DaytonaNotFoundError as error:
            raise AccessRefused(
                f"Daytona does not have what {name} needs: {error}; check MUSTER_DAYTONA_SNAPSHOT and _TARGET"
            ) from error
        except DaytonaBadRequestError as error:
            fault = fault_of(error, f"create {name}")
            if isinstance(fault, QuotaExceeded):
                raise fault from error
            named = "; check MUSTER_DAYTONA_SNAPSHOT" if "snapshot" in str(error).lower() else ""
            raise InvalidMessage(f"Daytona refused the sandbox: {error}{named}", field="$.provider") from error
        except DaytonaError as error:
            raise fault_of(error, f"create {name}") from error

    def _params(self, spec: SandboxSpec) -> CreateSandboxFromSnapshotParams:
        settings = self._settings
        addresses, domains = allowed_network(spec, self._gateway_host)
        return CreateSandboxFromSnapshotParams(
            name=self.name(spec.sandbox_id),
            snapshot=settings.daytona_snapshot or None,
            language="python",
            env_vars=spec.env,
            labels={
                DEPLOYMENT: self._deployment,
                SANDBOX: spec.sandbox_id,
                **{f"muster.{name}": value for name, value in spec.labels.items()},
            },
            auto_stop_interval=settings.daytona_auto_stop_minutes,
            auto_delete_interval=settings.daytona_auto_delete_minutes,
            ttl_minutes=math.ceil(spec.lifetime_s / _MINUTE_S),
            network_allow_list=addresses,
            domain_allow_list=domains,
        )

    def _take_turn(self) -> None:
        """Count a creation. Raises `ProviderBusy` if a minute has no room for another one."""
        now = self._monotonic()
        if len(self._created_at) == self._created_at.maxlen:
            wait_s = self._created_at[0] + _MINUTE_S - now
            if wait_s > 0:
                raise ProviderBusy(
                    f"{self._created_at.maxlen} sandboxes were made in a minute (MUSTER_DAYTONA_CREATES_PER_MINUTE)",
                    retry_after_s=wait_s,
                )
        self._created_at.append(now)

    async def _recover(self, failed: AsyncSandbox, sandbox_id: str) -> None:
        """Recover a sandbox in the state `error` if Daytona can, or else remove it, so that it is made again."""
        reason = failed.error_reason or "no reason given"
        if failed.recoverable:
            with translated(f"recover {failed.name}"):
                await failed.recover(timeout=CREATE_S)
            return
        await self.delete(sandbox_id)
        raise Unavailable(f"Daytona could not start {failed.name} ({reason}); it is made again")

    def _check_owner(self, found: AsyncSandbox, sandbox_id: str) -> None:
        if found.labels.get(DEPLOYMENT) != self._deployment or found.labels.get(SANDBOX) != sandbox_id:
            raise Conflict(
                f"a sandbox {found.name} without the labels of this deployment exists at Daytona; remove or rename it"
            )


def allowed_network(spec: SandboxSpec, gateway_host: str) -> tuple[str | None, str | None]:
    """Return the lists of addresses and domains with which a sandbox reaches the gateway and its allow-list only.

    Daytona's lists have no ports, so a host is allowed with all of its ports. With the network `host` there is no list.
    """
    if spec.network == "host":
        return None, None
    hosts = [host.rpartition(":")[0] or host for host in spec.hosts] if spec.network == "allow-list" else []
    addresses, domains = list[str](), list[str]()
    for host in dict.fromkeys([gateway_host, *hosts]):
        try:
            addresses.append(str(ipaddress.ip_network(host.strip("[]"))))
        except ValueError:
            domains.append(host)
    return ",".join(addresses) or None, ",".join(domains) or None


async def until_gone(calls: DaytonaCalls, sandbox_id: str, *, within_s: float, every_s: float = 0.5) -> bool:
    """Wait until Daytona has removed a sandbox. Return whether it has, within the time."""
    try:
        async with asyncio.timeout(within_s):
            while await calls.find(sandbox_id) is not None:  # noqa: ASYNC110 - Daytona reports no removal
                await asyncio.sleep(every_s)
    except TimeoutError:
        return False
    return True
