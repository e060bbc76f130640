"""Issues and revokes the NATS credentials of agents. A revocation takes effect at once."""

import re
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from muster.common.agent_credentials.revocations import Revoker
from muster.common.bus.connection import open_bus
from muster.common.clock import Clock, utc_now
from muster.common.contract import token
from muster.common.contracts.agents import RESERVED
from muster.common.faults import InvalidMessage, Unavailable
from muster.common.nats_identity.claims import user_token
from muster.common.nats_identity.credentials import credentials_text
from muster.common.nats_identity.keys import Key, derived_key
from muster.common.nats_identity.roles import NatsRole
from muster.common.settings import AuthoritySettings

LONGEST_TTL_S = 3600.0
"""The longest lifetime of credentials in seconds, which is also the lifetime of a revocation."""
TAKEN = RESERVED | frozenset(NatsRole)
"""Names that no agent may have, because its credentials would permit the subjects or the inbox of a service."""
_USER = re.compile(r"U[A-Z2-7]{55}")


class AgentAuthority:
    """Issues and revokes the credentials of agents.

    Without the settings for credentials, agents log in with the password of the NATS server. Then this class issues
    empty credentials and revokes nothing. Several managers may issue and revoke at the same time. The service uses the
    object inside an `async with` block.
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
        """Return a creds file for one launch of an agent, valid for `ttl_s` seconds. Call again to renew it.

        Every launch has its own key, so revoking one launch does not revoke the next one. Credentials are valid for at
        most `LONGEST_TTL_S` seconds. Raises `InvalidMessage` with the field `agent_id` if `agent_id` is reserved or
        cannot be one token of a subject.
        """
        name = _agents_name(agent_id)
        if self._agents is None:
            return ""
        user, at = self._user(self._agents, name, launch), int(self._now().timestamp())
        account, ttl_s = self._settings.nats_account, min(ttl_s, LONGEST_TTL_S)
        return credentials_text(user_token(self._agents, account, user.public, name, at=at, ttl_s=ttl_s), user)

    async def revoke(self, agent_id: str, launch: int) -> None:
        """Revoke all credentials of one launch of an agent, also those that another manager issues at the same time.

        NATS closes the agent's connection and refuses new ones. Returns when NATS has confirmed the revocation. A
        repeated call is safe. Raises `Unavailable` or `TimedOut`; then the caller must try again.
        """
        name = _agents_name(agent_id)
        if self._agents is not None:
            await self.revoke_user(self._user(self._agents, name, launch).public)

    async def revoke_user(self, public: str) -> None:
        """Revoke the credentials of the user with this public key."""
        if not _USER.fullmatch(public):
            raise InvalidMessage(
                "`public` is not the public key of a NATS user (U and 55 characters)", field="$.public"
            )
        if not self._settings.issues_credentials:
            return
        if self._revoker is None:
            raise Unavailable("credentials cannot be revoked: no connection to the NATS system account")
        await self._revoker.revoke(public, until=int(self._now().timestamp() + LONGEST_TTL_S) + 1)

    def _user(self, agents: Key, name: str, launch: int) -> Key:
        return derived_key("user", agents, f"{name}/{launch}")


def _agents_name(agent_id: str) -> str:
    name = token(agent_id, "agent_id")
    if name in TAKEN:
        raise InvalidMessage(f"agent_id may not be {name!r}: the name is reserved; choose another", field="$.agent_id")
    return name
