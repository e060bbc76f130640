"""How far a client has read the events of an agent, as an opaque token."""

import base64
import binascii
from typing import Annotated, Self

import msgspec


class AgentCursor(msgspec.Struct, frozen=True):
    """The client has read the agent's events up to this stream position."""

    agent_id: str = msgspec.field(name="a")
    position: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = msgspec.field(default=0, name="n")

    def token(self) -> str:
        """Return the cursor as an opaque token."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, agent_id: str) -> Self | None:
        """Return the cursor of a token; None if no feed of this agent gave it out."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            place = msgspec.json.decode(raw, type=cls)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            return None
        return place if place.agent_id == agent_id else None
