"""A sandbox's one credential: a signed token for (sandbox, task, epoch), verified without a look-up."""

import re
from datetime import datetime

import jwt
import msgspec

from muster.common.faults import InvalidMessage, Unauthenticated
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner

_ALGORITHM = "HS256"
_SHORTEST_KEY = 32
_REMEMBERED = 4096


_TOKEN = re.compile(r"eyJ[\w-]*\.eyJ[\w-]*\.[\w-]*")


def redacted(text: str) -> str:
    """What a worker wrote, without any token: it may have written its own (I6)."""
    return _TOKEN.sub("[token]", text)


class SandboxClaims(msgspec.Struct, frozen=True):
    """What a token says. It is good for nothing but its own sandbox."""

    sbx: str
    tsk: str
    agt: str
    epoch: int
    exp: int
    model: str

    @property
    def whose(self) -> LogOwner:
        """Whose log its bearer may write to."""
        return LogOwner(self.sbx, self.tsk, self.agt, self.epoch)

    def expired(self, now: datetime) -> bool:
        """Whether the model and inbox doors are shut for it."""
        return now.timestamp() >= self.exp


class Keyring:
    """The deployment's signing keys: the first signs, all verify, so that keys can be replaced under load."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._keys = keys
        self._signing = next(iter(keys))
        self._known: dict[str, SandboxClaims] = {}

    @classmethod
    def parsed(cls, text: str) -> "Keyring":
        """From `kid:hexsecret[,kid:hexsecret]`. Raises `InvalidMessage` without repeating a secret."""
        keys: dict[str, bytes] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            kid, _, secret = entry.partition(":")
            try:
                keys[kid] = bytes.fromhex(secret)
            except ValueError:
                raise InvalidMessage(f"the token key {kid[:16]!r} is not kid:hexsecret", field="$.token_keys") from None
            if not kid or len(keys[kid]) < _SHORTEST_KEY:
                raise InvalidMessage(
                    f"the token key {kid[:16]!r} needs {_SHORTEST_KEY} bytes of secret", field="$.token_keys"
                )
        if not keys:
            raise InvalidMessage("there is no token key", field="$.token_keys")
        return cls(keys)

    def sign(self, claims: SandboxClaims) -> str:
        """The token that says `claims`."""
        return jwt.encode(
            msgspec.structs.asdict(claims),
            self._keys[self._signing],
            algorithm=_ALGORITHM,
            headers={"kid": self._signing},
        )

    def verify(self, token: str) -> SandboxClaims:
        """What a token says, expired or not. Raises `Unauthenticated`."""
        if known := self._known.get(token):
            return known
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys[str(kid)]
            payload = jwt.decode(token, key, algorithms=[_ALGORITHM], options={"verify_exp": False, "require": ["exp"]})
            claims = msgspec.convert(payload, SandboxClaims)
        except (jwt.PyJWTError, KeyError, msgspec.ValidationError, ValueError):
            raise Unauthenticated("the token is not one of this deployment's sandboxes") from None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = claims
        return claims
