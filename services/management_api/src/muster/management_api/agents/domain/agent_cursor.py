"""How far a reader is in an agent's events, as an opaque token."""

import base64
import binascii
from typing import Annotated, Self

import msgspec


class AgentCursor(msgspec.Struct, frozen=True):
    """All of the agent's events up to this position of the stream are read."""

    agent_id: str = msgspec.field(name="a")
    position: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = msgspec.field(default=0, name="n")

    def token(self) -> str:
        """As clients keep it."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, agent_id: str) -> Self | None:
        """The place behind a token; None if it is not one of this agent's events."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            place = msgspec.json.decode(raw, type=cls)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            return None
        return place if place.agent_id == agent_id else None
