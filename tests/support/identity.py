"""A real server on which everyone is known by credentials, and a probe that finds out what they may do there."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.login import LastingClient, Login, login_options, refuses
from muster.common.identity.roles import Role
from muster.common.settings import AuthoritySettings
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.nats_server import NatsServer
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


class IdentityServer(Restartable):
    """A server in operator mode, as `muster up` has it."""

    def __init__(self, server: NatsServer, trust: NatsAuthority, accounts: Path) -> None:
        super().__init__(server)
        self.trust, self.accounts = trust, accounts

    def credentials(self, role: Role, name: str | None = None, ttl_s: float | None = None) -> str:
        """The text of a creds file."""
        return self.trust.credentials(role, name=name, ttl_s=ttl_s)

    def bus(self, role: Role = Role.ADMIN, name: str | None = None) -> AbstractAsyncContextManager[Bus]:
        """Connected as that role."""
        return open_bus(self.url, name or role, credentials=self.credentials(role, name), wait_s=PATIENCE_S)

    def revoker(self) -> AbstractAsyncContextManager[Bus]:
        """Connected to the system account, as a manager is."""
        return open_bus(self.url, "revoker", credentials=self.trust.revoker_file(), wait_s=PATIENCE_S)

    @property
    def authority(self) -> AuthoritySettings:
        """What a manager is told so as to mint and revoke agents' credentials."""
        return authority_of(self.trust, self.url)


def authority_of(trust: NatsAuthority, url: str) -> AuthoritySettings:
    """What the manager of a server with these keys is told."""
    return AuthoritySettings(
        nats_url=url,  # pyright: ignore[reportArgumentType] - pydantic makes it a secret
        nats_account=trust.account,
        nats_agent_seed=trust.signing(Role.AGENT).seed,  # pyright: ignore[reportArgumentType]
        nats_operator_seed=trust.operator_signing.seed,  # pyright: ignore[reportArgumentType]
        nats_system_credentials=trust.revoker_file(),
    )


def fresh_identity(home: Path) -> IdentityServer:
    """A server with keys and a store of its own, not yet started."""
    trust = NatsAuthority(home / "identity")
    server = NatsServer(home / "nats", authority=trust, log=home / "nats.log")
    return IdentityServer(server, trust, home / "nats" / "accounts")


class Probe:
    """One connection, and what the server refused it."""

    def __init__(self, client: LastingClient) -> None:
        self.client = client
        self.off = asyncio.Event()
        self._violations: list[str] = []

    async def refused_publishing(self, subjects: Iterable[str]) -> set[str]:
        """Which of these it may not publish on."""
        tried = set(subjects)
        self._violations.clear()
        for subject in tried:
            await self.client.publish(subject, b"")
        return await self._refused(tried, "publish")

    async def refused_hearing(self, subjects: Iterable[str]) -> set[str]:
        """Which of these it may not subscribe to."""
        tried = set(subjects)
        self._violations.clear()
        client: Any = self.client  # nats-py types `subscribe` only in part
        subscriptions = [await client.subscribe(subject) for subject in tried]
        refused = await self._refused(tried, "subscription")
        for subscription in subscriptions:
            await subscription.unsubscribe()
        return refused

    async def note(self, error: Exception) -> None:
        """Called by the client."""
        self._violations.append(str(error))

    async def disconnected(self) -> None:
        """Called by the client."""
        self.off.set()

    async def _refused(self, tried: set[str], act: str) -> set[str]:
        await self.client.flush(timeout=int(PATIENCE_S))
        # nats-py tells errors in lower case.
        return {subject for subject in tried if any(f'{act} to "{subject.lower()}"' in v for v in self._violations)}


@asynccontextmanager
async def probing(url: str, credentials: str) -> AsyncGenerator[Probe]:
    """Connect with these credentials. Raises `TimeoutError` where the server does not let them in."""
    client = LastingClient()
    probe = Probe(client)
    async with asyncio.timeout(PATIENCE_S):
        await client.connect(
            url,
            error_cb=probe.note,
            disconnected_cb=probe.disconnected,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            **login_options(Login(credentials), None),
        )
    try:
        yield probe
    finally:
        await client.close()


async def is_let_in(url: str, credentials: str) -> bool:
    """Whether these credentials are good now. Any other failure than a refusal is raised."""
    client = LastingClient()

    async def quiet(_: Exception) -> None:
        pass

    try:
        await client.connect(url, error_cb=quiet, allow_reconnect=False, **login_options(Login(credentials), None))
    except NatsError as error:
        if not refuses(error):
            raise
        return False
    await client.close()
    return True
