"""NATS JWTs, version 2: claims about one key, signed by another key.

An operator signs accounts, and an account's signing key signs users. A user signed by a *scoped* key has exactly the
permissions of that key's template, whatever the user's own claims contain.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from muster.common.contract import token
from muster.common.faults import InvalidMessage
from muster.common.nats_identity.keys import Key
from muster.common.nats_identity.roles import Permissions

UNLIMITED = -1
_HEAD = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_PARTS = 3
Revocations = Mapping[str, int]
"""For each user's public key, the second up to which issued tokens are invalid."""
EVERYBODY = "*"
"""The key of `Revocations` that means every user."""


class NatsClaims(msgspec.Struct, frozen=True):
    """The claims of a decoded token. The signature is not verified here: the NATS server verifies it."""

    iss: str
    sub: str
    name: str
    iat: int
    nats: dict[str, Any]
    exp: int = 0

    @property
    def revocations(self) -> dict[str, int]:
        """Return the account's revocations, by the public key of the user."""
        return dict(self.nats.get("revocations") or {})


def read_claims(text: str) -> NatsClaims:
    """Decode a token. Raises `InvalidMessage` if the text is no NATS token."""
    parts = text.strip().split(".")
    if len(parts) != _PARTS:
        raise InvalidMessage("the text is no NATS token: it does not have three parts")
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=NatsClaims)
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidMessage(f"the text is no NATS token ({type(error).__name__})") from None


def operator_token(operator: Key, name: str, *, signer: Key, system_account: str, at: int) -> str:
    """Return the signed token of the operator. The key `signer` may sign accounts for the operator."""
    return _signed(
        operator,
        operator.public,
        name,
        {"type": "operator", "system_account": system_account, "signing_keys": [signer.public]},
        at=at,
    )


def account_token(
    signer: Key,
    account: str,
    name: str,
    *,
    scopes: Sequence[dict[str, Any]],
    stores: bool,
    revoked: Revocations,
    at: int,
    exports: Sequence[str] = (),
    imports: Sequence[str] = (),
    exporter: str = "",
) -> str:
    """Return the signed token of an account. Keys in `scopes` sign its users.

    `stores` allows the account to use JetStream. Users of other accounts may send requests on the subjects `exports`.
    Users of this account may send requests on the subjects `imports`, which the account `exporter` answers.
    """
    counts = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    disk = ("mem_storage", "disk_storage", "streams", "consumer")
    # The server reads a missing limit as 0.
    limits: dict[str, Any] = dict.fromkeys((*counts, *(disk if stores else ())), UNLIMITED)
    claims: dict[str, Any] = {
        "type": "account",
        "limits": {**limits, "wildcards": True},
        "signing_keys": list(scopes),
    }
    if exports:
        # A request may have several replies, for instance one for each message of a batch.
        claims["exports"] = [
            {"name": subject, "subject": subject, "type": "service", "response_type": "Stream"} for subject in exports
        ]
    if imports:
        claims["imports"] = [
            {"name": subject, "subject": subject, "account": exporter, "type": "service"} for subject in imports
        ]
    if revoked:
        claims["revocations"] = dict(sorted(revoked.items()))
    return _signed(signer, account, name, claims, at=at)


def with_revocations(signer: Key, account: NatsClaims, revoked: Revocations, *, at: int) -> str:
    """Return the account's token with the revocations `revoked` instead of its earlier ones, signed again."""
    claims = {name: value for name, value in account.nats.items() if name not in {"revocations", "version"}}
    if revoked:
        claims["revocations"] = dict(sorted(revoked.items()))
    return _signed(signer, account.sub, account.name, claims, at=at)


def still_needed(revoked: Revocations, *, at: int) -> dict[str, int]:
    """Return the revocations that have not expired."""
    return {user: until for user, until in revoked.items() if until >= at or user == EVERYBODY}


def scope(signing: Key, role: str, permissions: Permissions) -> dict[str, Any]:
    """Return the permission template for users that the key `signing` signs."""
    template: dict[str, Any] = {
        "pub": {"allow": list(permissions.publish), "deny": list(permissions.deny_publish)},
        "sub": {"allow": list(permissions.subscribe), "deny": list(permissions.deny_subscribe)},
        **dict.fromkeys(("subs", "data", "payload"), UNLIMITED),
        "allowed_connection_types": ["STANDARD"],
    }
    if answers := permissions.answers:
        template["resp"] = {"max": answers.most, "ttl": int(answers.within_s * 1e9)}
    return {"kind": "user_scope", "key": signing.public, "role": role, "template": template}


def user_token(signing: Key, account: str, user: str, name: str, *, at: int, ttl_s: float | None) -> str:
    """Return the signed token of a user. `name` becomes part of subjects, so it must not contain wildcards or dots."""
    claims = {"type": "user", "issuer_account": account}
    return _signed(signing, user, token(name, "name"), claims, at=at, ttl_s=ttl_s)


def _signed(
    signer: Key, subject: str, name: str, claims: Mapping[str, Any], *, at: int, ttl_s: float | None = None
) -> str:
    body: dict[str, Any] = {
        "jti": "",
        "iat": at,
        "iss": signer.public,
        "name": name,
        "sub": subject,
        "nats": {**claims, "version": 2},
    }
    if ttl_s is not None:
        body["exp"] = at + max(1, round(ttl_s))
    digest = hashlib.sha256(msgspec.json.encode(body)).digest()
    body["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    unsigned = b".".join((_base64(_HEAD), _base64(msgspec.json.encode(body))))
    return b".".join((unsigned, _base64(signer.sign(unsigned)))).decode()


def _base64(body: bytes) -> bytes:
    return base64.urlsafe_b64encode(body).rstrip(b"=")
