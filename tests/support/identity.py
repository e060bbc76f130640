"""A real NATS server that requires credentials, and a probe that finds out the permissions of credentials."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.login import LastingClient, Login, login_options, refuses
from muster.common.nats_identity.roles import NatsRole
from muster.common.settings import AuthoritySettings
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.nats_server import NatsServer
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable


class IdentityServer(Restartable):
    """A NATS server in operator mode, as `muster up` starts it."""

    def __init__(self, server: NatsServer, trust: NatsAuthority, accounts: Path) -> None:
        super().__init__(server)
        self.trust, self.accounts = trust, accounts

    def credentials(self, role: NatsRole, name: str | None = None, ttl_s: float | None = None) -> str:
        """Return the content of a credentials file for this role."""
        return self.trust.credentials(role, name=name, ttl_s=ttl_s)

    def bus(self, role: NatsRole = NatsRole.ADMIN, name: str | None = None) -> AbstractAsyncContextManager[Bus]:
        """Return a bus connection with the credentials of this role."""
        return open_bus(self.url, name or role, credentials=self.credentials(role, name), wait_s=PATIENCE_S)

    def revoker(self) -> AbstractAsyncContextManager[Bus]:
        """Return a bus connection to the system account, as the manager uses it to revoke credentials."""
        return open_bus(self.url, "revoker", credentials=self.trust.revoker_file(), wait_s=PATIENCE_S)

    @property
    def authority(self) -> AuthoritySettings:
        """The manager's settings for creating and revoking agents' credentials."""
        return authority_of(self.trust, self.url)


def authority_of(trust: NatsAuthority, url: str) -> AuthoritySettings:
    """Return the manager's settings for a NATS server with these keys."""
    return AuthoritySettings(
        nats_url=url,  # pyright: ignore[reportArgumentType] - pydantic makes it a secret
        nats_account=trust.account,
        nats_agent_seed=trust.signing(NatsRole.AGENT).seed,  # pyright: ignore[reportArgumentType]
        nats_operator_seed=trust.operator_signing.seed,  # pyright: ignore[reportArgumentType]
        nats_system_credentials=trust.revoker_file(),
    )


def fresh_identity(home: Path) -> IdentityServer:
    """Return a NATS server with new keys and an empty store. The server is not started."""
    trust = NatsAuthority(home / "identity")
    server = NatsServer(home / "nats", authority=trust, log=home / "nats.log")
    return IdentityServer(server, trust, home / "nats" / "accounts")


class Probe:
    """One connection to a NATS server, with the permission errors that the server sent."""

    def __init__(self, client: LastingClient) -> None:
        self.client = client
        self.off = asyncio.Event()
        self._violations: list[str] = []

    async def refused_publishing(self, subjects: Iterable[str]) -> set[str]:
        """Publish on each subject; return the subjects that the server refused."""
        tried = set(subjects)
        self._violations.clear()
        for subject in tried:
            await self.client.publish(subject, b"")
        return await self._refused(tried, "publish")

    async def refused_hearing(self, subjects: Iterable[str]) -> set[str]:
        """Subscribe to each subject; return the subjects that the server refused."""
        tried = set(subjects)
        self._violations.clear()
        client: Any = self.client  # The type of `subscribe` is incomplete in nats-py.
        subscriptions = [await client.subscribe(subject) for subject in tried]
        refused = await self._refused(tried, "subscription")
        for subscription in subscriptions:
            await subscription.unsubscribe()
        return refused

    async def note(self, error: Exception) -> None:
        """Store an error; the NATS client calls this for each error of the server."""
        self._violations.append(str(error))

    async def disconnected(self) -> None:
        """Set the event `off`; the NATS client calls this when the connection is closed."""
        self.off.set()

    async def _refused(self, tried: set[str], act: str) -> set[str]:
        await self.client.flush(timeout=int(PATIENCE_S))
        # nats-py converts the text of an error to lower case.
        return {subject for subject in tried if any(f'{act} to "{subject.lower()}"' in v for v in self._violations)}


@asynccontextmanager
async def probing(url: str, credentials: str) -> AsyncGenerator[Probe]:
    """Connect with these credentials and yield a probe. Raises `TimeoutError` if the server refuses the credentials."""
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
    """Return whether the server accepts these credentials. Raises any failure that is not a refusal."""
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
