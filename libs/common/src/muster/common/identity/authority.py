"""The authority over agents on NATS: issues their credentials and revokes them at once."""

import re
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from muster.common.bus.connection import open_bus
from muster.common.clock import Clock, utc_now
from muster.common.contract import token
from muster.common.contracts.agents import RESERVED
from muster.common.faults import InvalidMessage, Unavailable
from muster.common.identity.claims import user_token
from muster.common.identity.credentials import credentials_text
from muster.common.identity.keys import Key, derived_key
from muster.common.identity.revoking import Revoker
from muster.common.identity.roles import Role
from muster.common.settings import AuthoritySettings

LONGEST_TTL_S = 3600.0
"""How long a revocation must be kept."""
TAKEN = RESERVED | frozenset(Role)
"""Names that an agent may not have: its credentials would open the subjects or the inbox of a service."""
_USER = re.compile(r"U[A-Z2-7]{55}")


class AgentAuthority:
    """Issues and revokes credentials.

    Without settings (a NATS server with a password) it issues `""` and revokes nothing. Several managers may hold one
    at the same time. Enter it for as long as the service runs.
    """

    def __init__(self, settings: AuthoritySettings, *, now: Clock = utc_now) -> None:
        self._settings, self._now = settings, now
        self._closing = AsyncExitStack()
        self._agents = Key(settings.nats_agent_seed.get_secret_value()) if settings.issues_credentials else None
        self._revoker: Revoker | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        if settings.issues_credentials:
            url, credentials = settings.nats_url.get_secret_value(), settings.nats_system_credentials
            async with AsyncExitStack() as opening:
                bus = await opening.enter_async_context(
                    open_bus(url, "agent_authority", credentials=credentials, tls=settings.nats_tls, now=self._now)
                )
                operator = Key(settings.nats_operator_seed.get_secret_value())
                revoker = Revoker(bus, settings.nats_account, operator)
                await opening.enter_async_context(revoker.watching())
                self._revoker, self._closing = revoker, opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._revoker = None
        await self._closing.__aexit__(kind, error, trace)

    def mint(self, agent_id: str, launch: int, ttl_s: float) -> str:
        """Return the creds file for one launch of an agent, valid for `ttl_s` seconds; call again to renew.

        Every launch has its own key, so revoking one launch does not revoke the next. A credential is valid for at most
        `LONGEST_TTL_S`. Raises `InvalidMessage` naming `agent_id` if it is not a token, or a reserved name.
        """
        name = _agents_name(agent_id)
        if self._agents is None:
            return ""
        user, at = self._user(self._agents, name, launch), int(self._now().timestamp())
        account, ttl_s = self._settings.nats_account, min(ttl_s, LONGEST_TTL_S)
        return credentials_text(user_token(self._agents, account, user.public, name, at=at, ttl_s=ttl_s), user)

    async def revoke(self, agent_id: str, launch: int) -> None:
        """Revoke what was issued for this launch, and what another manager still issues for it.

        The connection is closed and cannot come back. Returns when NATS has confirmed it; safe to repeat. Raises
        `Unavailable` or `TimedOut`: then try again.
        """
        name = _agents_name(agent_id)
        if self._agents is not None:
            await self.revoke_user(self._user(self._agents, name, launch).public)

    async def revoke_user(self, public: str) -> None:
        """Revoke the credentials of a user's public key."""
        if not _USER.fullmatch(public):
            raise InvalidMessage("public is not the public key of a NATS user", field="$.public")
        if not self._settings.issues_credentials:
            return
        if self._revoker is None:
            raise Unavailable("the authority over agents is not connected")
        await self._revoker.revoke(public, until=int(self._now().timestamp() + LONGEST_TTL_S) + 1)

    def _user(self, agents: Key, name: str, launch: int) -> Key:
        return derived_key("user", agents, f"{name}/{launch}")


def _agents_name(agent_id: str) -> str:
    name = token(agent_id, "agent_id")
    if name in TAKEN:
        raise InvalidMessage(f"agent_id may not be {name!r}: that is the name of something else", field="$.agent_id")
    return name
