"""A double of the account resolver of a NATS server, for failures that a real server does not produce on request."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from muster.common.agent_credentials.revocations import UPDATE, Revoker
from muster.common.bus.connection import Bus, Incoming
from muster.common.nats_identity.claims import account_token, read_claims, with_revocations
from muster.common.nats_identity.keys import Key, new_key

DONE, REFUSED = b'{"data": {"code": 200}}', b'{"error": {"code": 500, "description": "no space left"}}'


class ResolverDouble:
    """An account resolver with stored claims, claims in effect, a count of requests and a count of refusals to come."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.operator: Key = new_key("operator")
        self.account = new_key("account").public
        self.stored = self.obeyed = account_token(
            self.operator, self.account, "agents", scopes=(), stores=False, revoked={}, at=1
        )
        self.asked = self.refusals = 0

    def revoker(self, bus: Bus) -> Revoker:
        """Return a revoker of credentials of this account."""
        return Revoker(bus, self.account, self.operator)

    def without(self) -> str:
        """Return the account's claims without any revocation, as a sender with outdated knowledge would send them."""
        return with_revocations(self.operator, read_claims(self.stored), {}, at=2)

    async def look_up(self, asked: Incoming) -> None:
        """Reply with the stored claims; the bus calls this for each lookup."""
        await self._bus.send(asked.reply, self.stored.encode())

    async def inform(self, asked: Incoming) -> None:
        """Reply with the claims in effect; the bus calls this for each request of account information."""
        await self._bus.send(asked.reply, msgspec.json.encode({"data": {"jwt": self.obeyed}}))
        self.asked += 1

    async def update(self, asked: Incoming) -> None:
        """Refuse or store an update of the claims; an update without a reply subject is ignored."""
        if self.refusals:
            self.refusals -= 1
            await self._bus.send(asked.reply, REFUSED)
        elif asked.reply:
            self.stored = self.obeyed = asked.data.decode()
            await self._bus.send(asked.reply, DONE)


@asynccontextmanager
async def resolver_double(bus: Bus) -> AsyncGenerator[ResolverDouble]:
    """Run a resolver double that answers requests on the bus, and yield it."""
    double = ResolverDouble(bus)
    about = f"$SYS.REQ.ACCOUNT.{double.account}"
    subscriptions = [
        await bus.subscribe(f"{about}.CLAIMS.LOOKUP", double.look_up),
        await bus.subscribe(f"{about}.INFO", double.inform),
        await bus.subscribe(UPDATE, double.update),
    ]
    await bus.flush()
    yield double
    for subscription in subscriptions:
        await subscription.unsubscribe()
