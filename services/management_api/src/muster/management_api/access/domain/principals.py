"""The caller of a request, once its credentials are verified."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from muster.common.contracts.identity import Role, WhoAmI

ADMIN_ID = "admin"
"""The administrator of the stack: always exists, and cannot be changed."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller. `name` identifies it in the audit and to other services: `user:<user_id>` or `key:<key_id>`."""

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
    """Seconds for which an expired token is still accepted: the provider's clock may differ."""

    rests_until: datetime | None = None
    """For a key of a provider's user: when it ends unless the user shows a token before."""

    @property
    def void_at(self) -> datetime | None:
        """When the credential expires; None: it does not expire by itself."""
        expires_at = self.expires_at and self.expires_at + timedelta(seconds=self.leeway_s)
        return min(filter(None, (expires_at, self.rests_until)), default=None)

    @property
    def narrowed(self) -> bool:
        """Whether the caller may do less than its role allows."""
        return self.scopes is not None or self.project is not None

    @property
    def view(self) -> WhoAmI:
        """Return the view of the caller for itself."""
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
"""The holder of the stack's admin key."""
