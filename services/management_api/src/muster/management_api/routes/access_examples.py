"""Examples of users, keys and the audit, as the real types: none can be wrong."""

from datetime import UTC, datetime

import msgspec

from muster.common.contracts.identity import (
    AuditEntry,
    AuditPage,
    IssuedKey,
    KeyPage,
    KeyView,
    UserPage,
    UserView,
    WhoAmI,
)
from muster.management_api.domain.keys import NewKey
from muster.management_api.domain.users import NewUser, UserChange

_ULID = "01kagz5v3m8n6q2r4t7w9x0y1z"
_USER, _KEY = f"usr_{_ULID}", f"key_{_ULID}"
_AT, _THEN = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC), datetime(2027, 11, 21, tzinfo=UTC)
_CURSOR = "MjAyNi0xMS0yMVQwOTozMDowMC4xMjM0NTZa"

_user = UserView(
    user_id=_USER,
    name="Ada",
    email="ada@example.org",
    role="operator",
    issuer=None,
    disabled=False,
    created_at=_AT,
    updated_at=_AT,
    last_seen_at=_AT,
)
_key = KeyView(
    key_id=_KEY,
    user_id=_USER,
    name="nightly build",
    prefix=f"mk_{_ULID}_Zk3",
    role="operator",
    scopes=["tasks:write"],
    project="parser",
    issued_by="user:admin",
    created_at=_AT,
    expires_at=_THEN,
    revoked_at=None,
    last_used_at=_AT,
)
_entry = AuditEntry(
    event_id=f"evt_{_ULID}",
    at=_AT,
    service="management_api",
    action="stop-agent",
    who=f"user:{_USER}",
    what=f"POST /api/v1/agents/agt_{_ULID}/stop",
    outcome="done",
    source="192.0.2.7",
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    detail={"status": 202},
)

EXAMPLES: tuple[msgspec.Struct, ...] = (
    _user,
    UserPage(users=[_user], next_cursor=_CURSOR),
    _key,
    KeyPage(keys=[_key], next_cursor=_CURSOR),
    IssuedKey(key_id=_KEY, key=f"mk_{_ULID}_told-once-and-kept-nowhere", view=_key),
    WhoAmI(who=f"user:{_USER}", user_id=_USER, name="Ada", role="operator", via="oidc", expires_at=_THEN),
    _entry,
    AuditPage(entries=[_entry], next_cursor=_CURSOR),
    NewUser(name="Ada", email="ada@example.org", role="operator"),
    UserChange(role="viewer"),
    NewKey(name="nightly build", role="operator", scopes=["tasks:write"], project="parser", expires_at=_THEN),
)
