"""Users of the HTTP API, their keys and the audit entries. Only the HTTP API uses these messages, not NATS."""

from datetime import datetime
from typing import Any, Literal

from muster.common.contract import Message

Role = Literal["viewer", "operator", "admin"]
"""Roles in ascending order. Each role has all permissions of the roles before it."""
Scope = Literal[
    "agents:read",
    "agents:write",
    "audit:read",
    "keys:read",
    "keys:write",
    "metrics:read",
    "sandboxes:read",
    "sandboxes:write",
    "tasks:read",
    "tasks:write",
    "users:read",
    "users:write",
]
"""The scopes to which an API key can be limited."""


class WhoAmI(Message):
    """The authenticated caller of the API. `who` is the caller's name in the audit."""

    who: str
    user_id: str
    name: str
    role: Role | None
    via: Literal["stack", "key", "oidc"]
    scopes: list[str] | None = None
    """The scopes of a restricted key. None means all permissions of the role."""
    project: str | None = None
    key_id: str | None = None
    expires_at: datetime | None = None


class UserView(Message):
    """A person or a program. A user without a role has no permissions.

    `issuer` is the user's identity provider, if any.
    """

    user_id: str
    name: str
    email: str | None
    role: Role | None
    issuer: str | None
    disabled: bool
    created_at: datetime
    updated_at: datetime
    last_seen_at: datetime | None


class UserPage(Message):
    """Users, newest first. `next_cursor` continues after the last user of the page."""

    users: list[UserView]
    next_cursor: str | None = None


class KeyView(Message):
    """An API key without its secret. `prefix` is the start of the secret, so that people can recognize the key."""

    key_id: str
    user_id: str
    name: str
    prefix: str
    role: Role
    scopes: list[str] | None
    project: str | None
    issued_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyPage(Message):
    """API keys, newest first. `next_cursor` continues after the last key of the page."""

    keys: list[KeyView]
    next_cursor: str | None = None


class IssuedKey(Message):
    """A new API key. `key` is the secret, which the API shows only once. The API stores only a digest of the secret."""

    key_id: str
    key: str
    view: KeyView

    def __repr__(self) -> str:
        return f"IssuedKey(key_id={self.key_id!r}, key='…', view={self.view!r})"


class AuditEntry(Message):
    """One audited action: caller, action, origin and outcome."""

    event_id: str
    at: datetime
    service: str
    action: str
    who: str
    who_name: str | None = None
    """The present name of the user or key that `who` names. None if it was deleted, or is another kind of caller."""
    what: str
    outcome: str
    source: str | None
    trace_id: str | None
    detail: dict[str, Any]


class AuditPage(Message):
    """Audit entries, newest first. `next_cursor` continues after the last entry of the page."""

    entries: list[AuditEntry]
    next_cursor: str | None = None
