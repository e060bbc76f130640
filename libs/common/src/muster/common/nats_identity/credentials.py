"""NATS credentials: a user's token and seed in one text, the creds file that every NATS tool reads."""

import re
from dataclasses import dataclass, field

from muster.common.faults import InvalidMessage
from muster.common.nats_identity.claims import NatsClaims, read_claims
from muster.common.nats_identity.keys import Key

_TOKEN = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")


@dataclass(frozen=True)
class Credentials:
    """The token, key and claims of a NATS user."""

    token: str = field(repr=False)
    key: Key
    claims: NatsClaims

    @property
    def name(self) -> str:
        """Return the name of the role or agent in the credentials."""
        return self.claims.name


def credentials_text(token: str, key: Key) -> str:
    """Return the content of a creds file for a token and its key."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n"
    )


def read_credentials(text: str) -> Credentials:
    """Parse a creds file. Raises `InvalidMessage`, whose text never contains the secret."""
    token, seed = _TOKEN.search(text), _SEED.search(text)
    if token is None or seed is None:
        raise InvalidMessage("the text is no NATS creds file: a creds file has a JWT part and a seed part")
    return Credentials(token[1], Key(seed[1]), read_claims(token[1]))
