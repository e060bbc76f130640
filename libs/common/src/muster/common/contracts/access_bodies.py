"""The bodies of HTTP requests about users and API keys. Unknown fields are refused, and values are limited."""

from datetime import datetime
from typing import Annotated

import msgspec

from muster.common.contracts.access import Role, Scope
from muster.common.contracts.fields import Name, storable
from muster.common.contracts.request_body import RequestBody

PersonName = Annotated[str, storable(255)]
Email = Annotated[
    str,
    msgspec.Meta(
        min_length=3,
        max_length=255,
        pattern=r"^[^@\x00-\x20\x7f-\xa0]+@[^@\x00-\x20\x7f-\xa0]+$(?!\n)",
        description="must be an address such as ada@example.org",
    ),
]


class NewUser(RequestBody):
    """The body of the request that creates a user: a person without an identity provider, or a program.

    The user's credentials are API keys.
    """

    name: PersonName
    email: Email | None = None
    role: Role | None = None


class UserChange(RequestBody):
    """The body of the request that changes a user. A missing field keeps its value."""

    name: PersonName | msgspec.UnsetType = msgspec.UNSET
    email: Email | msgspec.UnsetType | None = msgspec.UNSET
    role: Role | msgspec.UnsetType | None = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET


class NewKey(RequestBody):
    """The body of the request that issues an API key, for the caller or for another user if the caller is an admin.

    A key without `scopes` has all scopes of its role. A key without `role` has the role of its user or of the issuer,
    whichever is lower.
    """

    name: PersonName
    role: Role | None = None
    user_id: Name | None = None
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=100)] | None = None
    project: Name | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
