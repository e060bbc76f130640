"""A stand-in for what a NATS server does with an account's claims, for what no real one does at will."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from muster.common.bus.connection import Bus, Incoming
from muster.common.identity.claims import account_token, read_claims, with_revocations
from muster.common.identity.keys import Key, new_key
from muster.common.identity.revoking import UPDATE, Revoker

DONE, REFUSED = b'{"data": {"code": 200}}', b'{"error": {"code": 500, "description": "no space left"}}'


class ResolverDouble:
    """What it stores, what it obeys, how often it was asked, and how many updates it still refuses."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.operator: Key = new_key("operator")
        self.account = new_key("account").public
        self.stored = self.obeyed = account_token(
            self.operator, self.account, "agents", scopes=(), stores=False, revoked={}, at=1
        )
        self.asked = self.refusals = 0

    def revoker(self, bus: Bus) -> Revoker:
        """Of this account."""
        return Revoker(bus, self.account, self.operator)

    def without(self) -> str:
        """The account with nothing revoked: what somebody sends who has not heard of anything."""
        return with_revocations(self.operator, read_claims(self.stored), {}, at=2)

    async def look_up(self, asked: Incoming) -> None:
        """Called by the bus."""
        await self._bus.send(asked.reply, self.stored.encode())

    async def inform(self, asked: Incoming) -> None:
        """Called by the bus, after `look_up`."""
        await self._bus.send(asked.reply, msgspec.json.encode({"data": {"jwt": self.obeyed}}))
        self.asked += 1

    async def update(self, asked: Incoming) -> None:
        """Called by the bus. What nobody waits for is told of and not obeyed."""
        if self.refusals:
            self.refusals -= 1
            await self._bus.send(asked.reply, REFUSED)
        elif asked.reply:
            self.stored = self.obeyed = asked.data.decode()
            await self._bus.send(asked.reply, DONE)


@asynccontextmanager
async def resolver_double(bus: Bus) -> AsyncGenerator[ResolverDouble]:
    """One that answers."""
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
