"""Credentials of agents' processes: handed over at launch, renewed in a file, revoked when they must not be used."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from muster.agent_manager.fleet.adapters.directories import write_private
from muster.common.identity.authority import AgentAuthority


class AgentCredentials:
    """`ttl_s` is how long each is good for; renew at half of it."""

    def __init__(self, authority: AgentAuthority, *, nats_url: str, ttl_s: float) -> None:
        self._authority, self._nats_url, self.ttl_s = authority, nats_url, ttl_s

    @property
    def public_url(self) -> str:
        """The server's address without what must stay secret."""
        return without_password(self._nats_url)

    def issue(self, agent_id: str, launch: int) -> tuple[str, str]:
        """The URL and the credentials of one launch.

        Where the server knows no identities but one password (a test, a bare server), agents share that one, since
        there is no other way to reach it.
        """
        text = self._authority.mint(agent_id, launch, self.ttl_s)
        return (self.public_url if text else self._nats_url), text

    def renew(self, agent_id: str, launch: int, file: Path) -> None:
        """Put fresh ones where the agent looks for them. Raises `Conflict` where that cannot be written."""
        _, text = self.issue(agent_id, launch)
        if text:
            write_private(file, text.encode())

    async def revoke(self, agent_id: str, *launches: int) -> None:
        """End those of these launches now. Raises `Unavailable` or `TimedOut`."""
        await asyncio.gather(*(self._authority.revoke(agent_id, launch) for launch in launches))


def without_password(url: str) -> str:
    """`nats://host:port`."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
