"""The cursor of an agent's feed: the position up to which a client has read the events, as an opaque token."""

import base64
import binascii
from typing import Annotated, Self

import msgspec


class AgentCursor(msgspec.Struct, frozen=True):
    """The position in the stream `AGENTS` up to which a client has read the events of one agent."""

    agent_id: str = msgspec.field(name="a")
    position: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = msgspec.field(default=0, name="n")

    def token(self) -> str:
        """Return the cursor of the agent's feed as an opaque token for the client."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, agent_id: str) -> Self | None:
        """Parse a token that a client has sent. Returns None if it is not the cursor of a feed of this agent."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            place = msgspec.json.decode(raw, type=cls)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            return None
        return place if place.agent_id == agent_id else None
