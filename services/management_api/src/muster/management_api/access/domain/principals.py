"""The principal: the caller of a request whose credentials are verified."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from muster.common.contracts.access import Role, WhoAmI

ADMIN_ID = "admin"
"""Id of the stack's administrator, a user that always exists and cannot be changed."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller with verified credentials, and its permissions.

    `name` identifies the caller in the audit log and to other services: `user:<user_id>` or `key:<key_id>`.
    """

    name: str
    user_id: str
    user_name: str
    role: Role | None
    via: Literal["stack", "key", "oidc"]
    scopes: tuple[str, ...] | None = None
    project: str | None = None
    key_id: str | None = None
    expires_at: datetime | None = None
    leeway_s: float = 0.0
    """Seconds for which an expired token is still accepted, because the identity provider's clock may differ."""

    rests_until: datetime | None = None
    """For a key of an identity provider's user: the time at which the key ends unless the user sends a new token."""

    @property
    def void_at(self) -> datetime | None:
        """The time at which the caller's credential expires; None if it does not expire."""
        expires_at = self.expires_at and self.expires_at + timedelta(seconds=self.leeway_s)
        return min(filter(None, (expires_at, self.rests_until)), default=None)

    @property
    def narrowed(self) -> bool:
        """Whether the caller's key is limited to scopes or to a project, and so has fewer permissions than its role."""
        return self.scopes is not None or self.project is not None

    @property
    def view(self) -> WhoAmI:
        """The caller's name, role and limits, as the API returns them to the caller."""
        return WhoAmI(
            who=self.name,
            user_id=self.user_id,
            name=self.user_name,
            role=self.role,
            via=self.via,
            scopes=None if self.scopes is None else list(self.scopes),
            project=self.project,
            key_id=self.key_id,
            expires_at=self.expires_at,
        )


STACK_ADMIN = Principal(name=f"user:{ADMIN_ID}", user_id=ADMIN_ID, user_name=ADMIN_ID, role="admin", via="stack")
"""The caller that sends the stack's admin key."""
