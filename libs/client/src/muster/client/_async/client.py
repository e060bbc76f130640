"""The asynchronous client of the management API."""

import random
import time
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Self

from muster.client._async.access import AsyncAuditCalls, AsyncKeyCalls, AsyncUserCalls
from muster.client._async.agents import AsyncAgentCalls
from muster.client._async.connection import AsyncApiConnection, AsyncCallOptions
from muster.client._async.packages import AsyncCapabilityCalls, AsyncPackageCalls
from muster.client._async.sandboxes import AsyncSandboxCalls
from muster.client._async.tasks import AsyncTaskCalls
from muster.client.client_settings import client_settings
from muster.client.errors import ClientSettingsError
from muster.client.feed_outage import OnOutage
from muster.client.retries import DEFAULT_RETRIES, Retries
from muster.client.time_limits import DEADLINE_S, LONGEST_DEADLINE_S
from muster.common.contracts.access import WhoAmI
from muster.common.contracts.health import Health


class AsyncMuster:
    """An asynchronous client of one Muster API, for use with `async with`. Without `async with`, call `aclose`.

    The calls are grouped: `tasks`, `agents`, `packages`, `capabilities`, `sandboxes`, `keys`, `users` and `audit`.
    `connection` sends any other request. Every call that fails raises an `ApiCallError`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        deadline_s: float = DEADLINE_S,
        retries: Retries = DEFAULT_RETRIES,
        on_outage: OnOutage | None = None,
        user_agent: str = "muster-client",
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Create a client; a URL or key that is None is read from `MUSTER_API_URL` or `MUSTER_API_KEY`.

        `deadline_s` limits each call, including its retries, in seconds. `on_outage` is called with the error once in
        each outage of a feed that lasts longer than a second. The last three arguments replace the clock, the sleep
        and the random numbers, for instance in tests. Raises `ClientSettingsError` for a missing or invalid URL or key,
        and for a deadline that is not between 0 and `LONGEST_DEADLINE_S`.
        """
        settings = client_settings(url, key)
        if not 0 < deadline_s <= LONGEST_DEADLINE_S:
            raise ClientSettingsError(f"deadline_s is {deadline_s}: give 0 to {LONGEST_DEADLINE_S:g} seconds")
        options = AsyncCallOptions(
            deadline_s=deadline_s,
            retries=retries,
            user_agent=user_agent,
            on_outage=on_outage,
            monotonic=monotonic,
            sleep=sleep,
            chance=chance,
        )
        self.connection = AsyncApiConnection(settings.url, settings.key, options)
        self.tasks, self.agents = AsyncTaskCalls(self.connection), AsyncAgentCalls(self.connection)
        self.packages, self.capabilities = AsyncPackageCalls(self.connection), AsyncCapabilityCalls(self.connection)
        self.sandboxes = AsyncSandboxCalls(self.connection)
        self.keys, self.users = AsyncKeyCalls(self.connection), AsyncUserCalls(self.connection)
        self.audit = AsyncAuditCalls(self.connection)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.connection.aclose()

    async def whoami(self) -> WhoAmI:
        """Return the identity, role and scopes that the API derives from the client's key."""
        return await self.connection.call("GET", "/api/v1/whoami", WhoAmI)

    async def health(self) -> Health:
        """Return the states of PostgreSQL, NATS and the services that the API needs."""
        return await self.connection.call("GET", "/api/health", Health)
