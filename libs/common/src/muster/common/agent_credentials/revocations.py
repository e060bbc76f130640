"""Revokes NATS credentials. Revocations are part of the account's claims, which the server stores and obeys at once.

Claims are replaced as a whole, and NATS offers no compare-and-set for them. A process that sends claims which it read
before another process's update would undo that update. So every process that revokes watches all updates, and sends an
update again if a revocation that it knows is missing.

A server (2.15) handles updates of two connections at the same time. It announces an update before it has applied the
update, and may store one update but obey the other. So this module reads the stored and the obeyed claims, and reads
them again at growing intervals.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog

from muster.common.bus.connection import REQUEST_DEADLINE_S, Bus, Incoming
from muster.common.contract import decode
from muster.common.faults import Fault, InvalidMessage, TimedOut, Unavailable
from muster.common.nats_identity.claims import NatsClaims, read_claims, still_needed, with_revocations
from muster.common.nats_identity.keys import Key
from muster.common.supervision import supervise

log = structlog.get_logger()

UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
_OK = 200
_ONE_TRY_S = 2.0
_LOOKS_AGAIN_S = (0.1, 30.0)
"""Seconds until the first check after an update, and the longest wait. Each wait is twice the one before."""


class _Done(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Refused(msgspec.Struct, frozen=True):
    code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    data: _Done = _Done()
    error: _Refused | None = None


class _AccountClaims(msgspec.Struct, frozen=True):
    jwt: str = ""


class _Obeyed(msgspec.Struct, frozen=True):
    data: _AccountClaims | None = None


class Revoker:
    """Revokes credentials of one account, through a connection to NATS' system account."""

    def __init__(self, bus: Bus, account: str, operator: Key) -> None:
        self._bus, self._account, self._operator = bus, account, operator
        self._about = f"$SYS.REQ.ACCOUNT.{account}"
        self._known: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._incomplete = asyncio.Event()

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Watch the claims updates of other processes while the block runs."""
        subscription = await self._bus.subscribe(UPDATE, self._see)
        await self._bus.flush()
        # This process did not receive the claims updates that other processes sent during an outage.
        self._bus.on_reconnect(self._incomplete.set)
        self._incomplete.set()
        # A TaskGroup would wrap an error of the caller's block in an ExceptionGroup.
        mending = asyncio.get_running_loop().create_task(supervise("revocations", self._mend))
        try:
            yield
        finally:
            mending.cancel()
            await asyncio.wait([mending])
            await subscription.unsubscribe()

    async def revoke(self, user: str, *, until: int) -> None:
        """Revoke all credentials of `user` issued up to the second `until`.

        Returns when the server has confirmed the revocation.
        """
        self._known[user] = max(until, self._known.get(user, 0))
        await self._settle()
        # Read the claims again soon, because the server may still apply another process's older update.
        self._incomplete.set()

    async def _settle(self) -> None:
        """Send updates of the account's claims until the server has every known revocation.

        One update may contain the revocations of several callers.
        """
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S), self._one_at_a_time:
                wait = 0.0
                while True:
                    found = [await self._stored(), *await self._obeyed()]
                    if not any(self._lacks(account) for account in found):
                        return
                    await asyncio.sleep(wait)  # The first update is sent without a delay, later ones with a pause.
                    await self._update(found[0], after=max(account.iat for account in found))
                    wait = _LOOKS_AGAIN_S[0]
        except TimeoutError:
            raise TimedOut(f"NATS did not confirm a revocation within {REQUEST_DEADLINE_S:g} s; try again") from None

    async def _stored(self) -> NatsClaims:
        """Return the claims that the server has stored and will use after a restart."""
        answer = await self._bus.call(f"{self._about}.CLAIMS.LOOKUP", b"", timeout_s=_ONE_TRY_S)
        if not answer.data:
            raise Unavailable(
                "NATS does not know the account; check that MUSTER_NATS_ACCOUNT is an account of this server"
            )
        return self._learnt(answer.data.decode())

    async def _obeyed(self) -> list[NatsClaims]:
        """Return the claims that the server obeys now. Empty while no client of the account has connected."""
        answer = decode((await self._bus.call(f"{self._about}.INFO", b"", timeout_s=_ONE_TRY_S)).data, _Obeyed)
        return [self._learnt(answer.data.jwt)] if answer.data else []

    async def _update(self, account: NatsClaims, *, after: int) -> None:
        at = self._seconds()
        self._known = still_needed(self._known, at=at)
        # A server that starts or joins a cluster keeps the account's token with the latest time. So each update needs a
        # later time than the one before.
        token = with_revocations(self._operator, account, self._known, at=max(at, after + 1))
        answer = decode((await self._bus.call(UPDATE, token.encode(), timeout_s=_ONE_TRY_S)).data, _Answer)
        if answer.error or answer.data.code != _OK:
            said = answer.error.description if answer.error else answer.data.message
            raise Fault(f"NATS refused the account's new claims: {said}")
        log.info("nats account claims updated", revocations=len(self._known))

    async def _see(self, update: Incoming) -> None:
        try:
            account = read_claims(update.data.decode())
        except (InvalidMessage, UnicodeDecodeError):  # The server refuses an invalid update, so it changes nothing.
            return
        if account.sub == self._account:
            if self._lacks(account):
                self._incomplete.set()
            self._learn(account)

    async def _mend(self) -> None:
        shortest, longest = _LOOKS_AGAIN_S
        wait, told = shortest, ""
        while True:
            wait = shortest if await self._woken_within(wait) else min(2 * wait, longest)
            try:
                await self._settle()
                told = ""
            except Fault as fault:  # NATS may be unreachable, slow or full for a while, so the loop tries again.
                if str(fault) != told:
                    log.warning("nats did not confirm revocations", error=(told := str(fault)))
                # A reconnection wakes this loop, but a slow server causes no reconnection. So try again after a second.
                wait = 1.0

    async def _woken_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._incomplete.wait()
        woken = self._incomplete.is_set()
        self._incomplete.clear()
        return woken

    def _learnt(self, text: str) -> NatsClaims:
        account = read_claims(text)
        self._learn(account)
        return account

    def _learn(self, account: NatsClaims) -> None:
        for user, until in account.revocations.items():
            self._known[user] = max(until, self._known.get(user, 0))

    def _lacks(self, account: NatsClaims) -> bool:
        needed = still_needed(self._known, at=self._seconds())
        return any(account.revocations.get(user, 0) < until for user, until in needed.items())

    def _seconds(self) -> int:
        return int(self._bus.now().timestamp())
