"""Signs and verifies sandbox tokens. A token is the only credential of a worker, for one sandbox, task and epoch.

A token is a JWT, so that every replica verifies it without reading a store. A token cannot be revoked. The fence of its
epoch has the same effect: after the fence the gateway refuses all requests with this token.
"""

import re
from datetime import datetime

import jwt
import msgspec

from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.task_spec import TaskSpec
from muster.common.faults import InvalidMessage, Unauthenticated
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner

_ALGORITHM = "HS256"
_SHORTEST_KEY = 32
_REMEMBERED = 20_000


_TOKEN = re.compile(r"eyJ[\w-]*\.eyJ[\w-]*\.[\w-]*")


def redacted(text: str) -> str:
    """Replace every token in a worker's output, because a worker may have written its own token (invariant I6)."""
    return _TOKEN.sub("[token]", text)


def whole_lines(body: bytes, *, ended: bool) -> bytes:
    """Return the part of a worker's output that can be shown: whole lines, or everything if no line can follow.

    A line that is shown in two pieces could contain two halves of a token, which `redacted` would not find.
    """
    return body if ended else body[: body.rfind(b"\n") + 1]


def after_cut_line(body: bytes) -> bytes:
    """Return the output after the first line end, or nothing. The part before it is the rest of a line that was cut.

    The rest of a line could contain the second half of a token, which `redacted` would not find.
    """
    return body.partition(b"\n")[2]


class CallLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The limits of a task, None for no limit, and the use of the attempts before this one."""

    max_steps: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    steps: int = 0
    tokens: int = 0
    cost_usd: float = 0.0

    @classmethod
    def of(cls, spec: TaskSpec, used: UsedSoFar) -> "CallLimits":
        """Return the limits of a task after its earlier attempts have used `used`."""
        return cls(spec.max_steps, spec.max_tokens, spec.max_cost_usd, used.steps, used.tokens, used.cost_usd)


class SandboxClaims(msgspec.Struct, frozen=True):
    """The claims of a sandbox's token: sandbox, task, agent, epoch, expiry (Unix time, seconds) and permitted model.

    `limits` are the limits of the task, and the use of the task's earlier attempts. `hosts` are the entries of the
    allow-list that the task and its package name; () for all hosts that the operator allows, and None for no network.
    """

    sbx: str
    tsk: str
    agt: str
    epoch: int
    exp: int
    model: str
    limits: CallLimits = CallLimits()
    hosts: tuple[str, ...] | None = None

    @property
    def owner(self) -> LogOwner:
        """The ids (sandbox, task, agent, epoch) of the log to which a worker with this token may write."""
        return LogOwner(self.sbx, self.tsk, self.agt, self.epoch)

    def expired(self, now: datetime) -> bool:
        """Whether the token has expired. The endpoints for model calls and for the inbox refuse an expired token."""
        return now.timestamp() >= self.exp


class Keyring:
    """The keys that sign sandbox tokens in this deployment.

    The first key signs new tokens. All keys verify tokens, so that an operator can replace keys without downtime.
    """

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._keys = keys
        self._signing = next(iter(keys))
        self._known: dict[str, SandboxClaims] = {}

    @classmethod
    def parsed(cls, text: str) -> "Keyring":
        """Parse the setting `kid:hexsecret[,kid:hexsecret]`. Raises `InvalidMessage`, whose text contains no secret."""
        keys: dict[str, bytes] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            kid, _, secret = entry.partition(":")
            try:
                keys[kid] = bytes.fromhex(secret)
            except ValueError:
                raise InvalidMessage(
                    f"the token key {kid[:16]!r} is not valid; write it as kid:hexsecret", field="$.token_keys"
                ) from None
            if not kid or len(keys[kid]) < _SHORTEST_KEY:
                raise InvalidMessage(
                    f"the token key {kid[:16]!r} needs a secret of {_SHORTEST_KEY} bytes or more", field="$.token_keys"
                )
        if not keys:
            raise InvalidMessage("no token key is set; write at least one kid:hexsecret", field="$.token_keys")
        return cls(keys)

    def sign(self, claims: SandboxClaims) -> str:
        """Return a sandbox token with these claims, signed with the first key."""
        return jwt.encode(
            msgspec.to_builtins(claims),
            self._keys[self._signing],
            algorithm=_ALGORITHM,
            headers={"kid": self._signing},
        )

    def verify(self, token: str) -> SandboxClaims:
        """Return the claims of a sandbox token, even if it has expired. Raises `Unauthenticated` if it is invalid."""
        if known := self._known.get(token):
            return known
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys[str(kid)]
            payload = jwt.decode(token, key, algorithms=[_ALGORITHM], options={"verify_exp": False, "require": ["exp"]})
            claims = msgspec.convert(payload, SandboxClaims)
        except (jwt.PyJWTError, KeyError, msgspec.ValidationError, ValueError):
            raise Unauthenticated("the request's token is not a sandbox token of this deployment") from None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = claims
        return claims
