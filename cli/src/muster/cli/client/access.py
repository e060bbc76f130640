"""Calls the API's routes for the caller's own identity, API keys, users and the audit log."""

from typing import Any

from muster.cli.client.connection import ApiConnection, part
from muster.common.contracts.identity import AuditPage, IssuedKey, KeyPage, UserPage, UserView, WhoAmI

KEYS, USERS = "/api/v1/keys", "/api/v1/users"


class AccessRoutes:
    """Methods for the routes of one API that concern identity: `whoami`, keys, users and the audit log."""

    def __init__(self, connection: ApiConnection) -> None:
        self._call = connection.call

    async def whoami(self) -> WhoAmI:
        """Return the identity, role and scopes that the API derives from the client's key."""
        return await self._call("GET", "/api/v1/whoami", WhoAmI)

    async def keys(self, *, limit: int = 50, cursor: str | None = None) -> KeyPage:
        """Return one page of keys, newest first; a key's secret is never part of it."""
        return await self._call("GET", KEYS, KeyPage, query=[("limit", limit), ("cursor", cursor)])

    async def issue(self, name: str, **fields: Any) -> IssuedKey:  # noqa: ANN401 - the new key's fields, validated there
        """Create a key. Only this reply contains the secret; no later call returns it."""
        return await self._call("POST", KEYS, IssuedKey, body={"name": name, **fields})

    async def revoke(self, key_id: str) -> None:
        """Revoke a key with immediate effect."""
        await self._call("DELETE", f"{KEYS}/{part(key_id)}", object)

    async def audit(self, *, limit: int = 50, cursor: str | None = None, **filters: str | None) -> AuditPage:
        """Return one page of audit entries, newest first; `filters` are query parameters of the route."""
        query = [*filters.items(), ("limit", limit), ("cursor", cursor)]
        return await self._call("GET", "/api/v1/audit", AuditPage, query=query)

    async def users(self, *, limit: int = 50, cursor: str | None = None) -> UserPage:
        """Return one page of users, newest first."""
        return await self._call("GET", USERS, UserPage, query=[("limit", limit), ("cursor", cursor)])

    async def add_user(self, name: str, **fields: Any) -> UserView:  # noqa: ANN401 - the new user's fields, validated there
        """Create a user."""
        return await self._call("POST", USERS, UserView, body={"name": name, **fields})

    async def change_user(self, user_id: str, **fields: Any) -> UserView:  # noqa: ANN401 - fields of a user
        """Set the given fields of a user; the other fields stay."""
        return await self._call("PATCH", f"{USERS}/{part(user_id)}", UserView, body=fields)

    async def delete_user(self, user_id: str) -> None:
        """Delete a user together with the user's keys."""
        await self._call("DELETE", f"{USERS}/{part(user_id)}", object)
