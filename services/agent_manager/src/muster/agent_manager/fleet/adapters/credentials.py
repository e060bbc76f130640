"""NATS credentials for processes of agents: issued at launch, renewed in a file, revoked when the launch ends."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from muster.agent_manager.fleet.adapters.directories import write_private
from muster.common.agent_credentials.authority import AgentAuthority


class AgentCredentials:
    """Issues, renews and revokes credentials of agents. Credentials are valid for `ttl_s` seconds."""

    def __init__(self, authority: AgentAuthority, *, nats_url: str, ttl_s: float) -> None:
        self._authority, self._nats_url, self.ttl_s = authority, nats_url, ttl_s

    @property
    def public_url(self) -> str:
        """The URL of the NATS server, without user and password."""
        return without_password(self._nats_url)

    def issue(self, agent_id: str, launch: int) -> tuple[str, str]:
        """Return the NATS URL and the credentials for one launch of an agent.

        A NATS server without configured identities, as in tests, knows at most one password. Then all agents use the
        manager's URL with this password, and the credentials are empty.
        """
        text = self._authority.mint(agent_id, launch, self.ttl_s)
        return (self.public_url if text else self._nats_url), text

    def renew(self, agent_id: str, launch: int, file: Path) -> None:
        """Write renewed credentials to the file that the agent reads. Raises `Conflict` if the file is not writable."""
        _, text = self.issue(agent_id, launch)
        if text:
            write_private(file, text.encode())

    async def revoke(self, agent_id: str, *launches: int) -> None:
        """Revoke the credentials of these launches of an agent. Raises `Unavailable` or `TimedOut`."""
        await asyncio.gather(*(self._authority.revoke(agent_id, launch) for launch in launches))


def without_password(url: str) -> str:
    """Return the URL of a NATS server without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
