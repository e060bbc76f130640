"""Who is asking, once that is known."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from muster.common.contracts.identity import Role, WhoAmI

ADMIN_ID = "admin"
"""The stack's own administrator: always there, never changed."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller. `name` is what the audit and other services call him: `user:<user_id>` or `key:<key_id>`."""

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
    """How much longer than that it is taken: whoever made it has a clock of his own."""

    rests_until: datetime | None = None
    """Of a key whose user comes from an identity provider: when it ends unless they show a token before."""

    @property
    def void_at(self) -> datetime | None:
        """From when on the credential is refused; None: never by itself."""
        expires_at = self.expires_at and self.expires_at + timedelta(seconds=self.leeway_s)
        return min(filter(None, (expires_at, self.rests_until)), default=None)

    @property
    def narrowed(self) -> bool:
        """Whether he may less than his role."""
        return self.scopes is not None or self.project is not None

    @property
    def view(self) -> WhoAmI:
        """As he is told himself."""
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
"""Whoever holds the stack's admin key."""
