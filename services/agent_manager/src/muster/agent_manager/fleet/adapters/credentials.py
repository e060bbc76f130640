"""NATS credentials of agents' processes: issued at launch, renewed in a file, revoked when the launch ends."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from muster.agent_manager.fleet.adapters.directories import write_private
from muster.common.identity.authority import AgentAuthority


class AgentCredentials:
    """Issues, renews and revokes credentials; `ttl_s` seconds is how long each is valid. Renew at half of it."""

    def __init__(self, authority: AgentAuthority, *, nats_url: str, ttl_s: float) -> None:
        self._authority, self._nats_url, self.ttl_s = authority, nats_url, ttl_s

    @property
    def public_url(self) -> str:
        """The address of the server, without user and password."""
        return without_password(self._nats_url)

    def issue(self, agent_id: str, launch: int) -> tuple[str, str]:
        """Return the URL and the credentials for one launch.

        A server without identities, as in a test, has one password at most: all agents share it, because the server
        knows no other credential.
        """
        text = self._authority.mint(agent_id, launch, self.ttl_s)
        return (self.public_url if text else self._nats_url), text

    def renew(self, agent_id: str, launch: int, file: Path) -> None:
        """Write renewed credentials to the file that the agent reads. Raises `Conflict` if that fails."""
        _, text = self.issue(agent_id, launch)
        if text:
            write_private(file, text.encode())

    async def revoke(self, agent_id: str, *launches: int) -> None:
        """Revoke the credentials of these launches. Raises `Unavailable` or `TimedOut`."""
        await asyncio.gather(*(self._authority.revoke(agent_id, launch) for launch in launches))


def without_password(url: str) -> str:
    """Return `nats://host:port`."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
