"""Who may use the HTTP API: users, their keys, and what was done. Only over HTTP: no service asks them of another."""

from datetime import datetime
from typing import Any, Literal

from muster.common.contract import Message

Role = Literal["viewer", "operator", "admin"]
"""In order: each may what those before it may."""


class WhoAmI(Message):
    """The caller as the API knows it. `who` identifies the caller in the audit."""

    who: str
    user_id: str
    name: str
    role: Role | None
    via: Literal["stack", "key", "oidc"]
    scopes: list[str] | None = None
    """What a narrowed key is good for; None: everything its role may."""
    project: str | None = None
    key_id: str | None = None
    expires_at: datetime | None = None


class UserView(Message):
    """A person or a program. A user without a role may do nothing; `issuer` is the identity provider, if any."""

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
    """Users, newest first; `next_cursor` continues after the last one."""

    users: list[UserView]
    next_cursor: str | None = None


class KeyView(Message):
    """A key without its secret. `prefix` is how it begins, so that one can tell which it is."""

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
    """Keys, newest first; `next_cursor` continues after the last one."""

    keys: list[KeyView]
    next_cursor: str | None = None


class IssuedKey(Message):
    """A new key. `key` is the secret itself, told this once: only its digest is stored."""

    key_id: str
    key: str
    view: KeyView


class AuditEntry(Message):
    """One audited act: who did what, from where, with which outcome."""

    event_id: str
    at: datetime
    service: str
    action: str
    who: str
    what: str
    outcome: str
    source: str | None
    trace_id: str | None
    detail: dict[str, Any]


class AuditPage(Message):
    """Entries, newest first; `next_cursor` continues after the last one."""

    entries: list[AuditEntry]
    next_cursor: str | None = None
