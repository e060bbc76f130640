"""Credentials: a user's token and its seed, in the one text that every NATS tool reads (a creds file)."""

import re
from dataclasses import dataclass, field

from muster.common.faults import InvalidMessage
from muster.common.identity.claims import NatsClaims, read_claims
from muster.common.identity.keys import Key

_TOKEN = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")


@dataclass(frozen=True)
class Credentials:
    """Who one is on NATS, and the proof."""

    token: str = field(repr=False)
    key: Key
    claims: NatsClaims

    @property
    def name(self) -> str:
        """A role's or an agent's."""
        return self.claims.name


def credentials_text(token: str, key: Key) -> str:
    """What a creds file holds."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n"
    )


def read_credentials(text: str) -> Credentials:
    """From the text of a creds file. Raises `InvalidMessage` without repeating it."""
    token, seed = _TOKEN.search(text), _SEED.search(text)
    if token is None or seed is None:
        raise InvalidMessage("these are no NATS credentials: a creds file has a JWT part and a seed part")
    return Credentials(token[1], Key(seed[1]), read_claims(token[1]))
