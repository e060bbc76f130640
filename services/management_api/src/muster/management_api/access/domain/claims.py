"""Reads the claims that the API uses from the payload of an identity provider's token."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast, get_args

import msgspec

from muster.common.contracts.access import Role
from muster.common.faults import Unauthenticated

LONGEST_NAME = 255
LEEWAY_S = 30.0
"""Seconds by which the clocks of the identity provider and of the API may differ."""
LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999, the latest time that can be stored."""
HIGHEST_FIRST: tuple[Role, ...] = tuple(reversed(get_args(Role)))
_NAMES = ("name", "preferred_username", "email", "sub")


class TokenClaims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that the API has read from a verified token of an identity provider."""

    issuer: str
    subject: str
    name: str
    email: str | None
    role: Role | None
    issued_at: datetime
    expires_at: datetime


def believed(payload: Mapping[str, Any], *, role_claim: str) -> TokenClaims:
    """Return the claims in the payload of a verified token, which contains `iss`, `iat` and `exp`.

    Raises `Unauthenticated` if the claim `sub` is not a valid id of a user.
    """
    subject = payload.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_NAME or "\0" in subject:
        raise Unauthenticated(f"the token's claim `sub` must be a text of 1 to {LONGEST_NAME} characters")
    texts = {name: _text(payload.get(name)) for name in (*_NAMES, "iss")}
    return TokenClaims(
        issuer=texts["iss"],
        subject=subject,
        name=next((texts[name] for name in _NAMES if texts[name]), "unnamed"),
        email=texts["email"] or None,
        role=_role(_at(payload, role_claim)),
        issued_at=_moment(payload["iat"]),
        expires_at=_moment(payload["exp"]),
    )


def _moment(seconds: object) -> datetime:
    """Convert a verified number of seconds since 1970 to a time in the range that the database can store."""
    return datetime.fromtimestamp(min(max(float(cast("float", seconds)), 0.0), LAST_MOMENT), UTC)


def _at(payload: Mapping[str, Any], claim: str) -> object:
    """Return the claim with this name. If there is none, follow the dots in the name into nested objects."""
    if claim in payload:
        return payload[claim]
    found: object = payload
    for part in claim.split("."):
        found = cast("Mapping[str, object]", found).get(part) if isinstance(found, Mapping) else None
    return found


def _role(said: object) -> Role | None:
    """Return the highest role in a claim, which is a list or a text of words. Words that are not roles are ignored."""
    words = said.split() if isinstance(said, str) else cast("list[object]", said) if isinstance(said, list) else []
    return next((role for role in HIGHEST_FIRST if role in words), None)


def _text(value: object) -> str:
    return value.replace("\0", "")[:LONGEST_NAME] if isinstance(value, str) else ""
