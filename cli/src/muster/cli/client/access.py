"""The API's routes about callers, keys and users, as Python calls."""

from typing import Any

from muster.cli.client.connection import ApiConnection, part
from muster.common.contracts.identity import AuditPage, IssuedKey, KeyPage, UserPage, UserView, WhoAmI

KEYS, USERS = "/api/v1/keys", "/api/v1/users"


class AccessRoutes:
    """Who may use one API."""

    def __init__(self, connection: ApiConnection) -> None:
        self._call = connection.call

    async def whoami(self) -> WhoAmI:
        """The caller, as the API knows him."""
        return await self._call("GET", "/api/v1/whoami", WhoAmI)

    async def keys(self, *, limit: int = 50, cursor: str | None = None) -> KeyPage:
        """Keys, newest first, without their secrets."""
        return await self._call("GET", KEYS, KeyPage, query=[("limit", limit), ("cursor", cursor)])

    async def issue(self, name: str, **fields: Any) -> IssuedKey:  # noqa: ANN401 - the new key's fields, validated there
        """Make a key; its secret is told this once."""
        return await self._call("POST", KEYS, IssuedKey, body={"name": name, **fields})

    async def revoke(self, key_id: str) -> None:
        """Make a key good for nothing, at once."""
        await self._call("DELETE", f"{KEYS}/{part(key_id)}", object)

    async def audit(self, *, limit: int = 50, cursor: str | None = None, **filters: str | None) -> AuditPage:
        """Who did what, newest first; `filters` are those of the API's query."""
        query = [*filters.items(), ("limit", limit), ("cursor", cursor)]
        return await self._call("GET", "/api/v1/audit", AuditPage, query=query)

    async def users(self, *, limit: int = 50, cursor: str | None = None) -> UserPage:
        """Users, newest first."""
        return await self._call("GET", USERS, UserPage, query=[("limit", limit), ("cursor", cursor)])

    async def add_user(self, name: str, **fields: Any) -> UserView:  # noqa: ANN401 - the new user's fields, validated there
        """Make a user known."""
        return await self._call("POST", USERS, UserView, body={"name": name, **fields})

    async def change_user(self, user_id: str, **fields: Any) -> UserView:  # noqa: ANN401 - fields of a user
        """Change what is given."""
        return await self._call("PATCH", f"{USERS}/{part(user_id)}", UserView, body=fields)

    async def delete_user(self, user_id: str) -> None:
        """Forget a user; his keys go with him."""
        await self._call("DELETE", f"{USERS}/{part(user_id)}", object)
