"""Calls the API's routes for keys, users and the audit log."""

from collections.abc import AsyncGenerator
from typing import Unpack

from muster.client._async.connection import AsyncApiConnection
from muster.client._async.paging import all_pages
from muster.client.filters import AuditFilters
from muster.client.http_messages import filter_query, part
from muster.common.contracts.access import AuditEntry, AuditPage, IssuedKey, KeyPage, KeyView, UserPage, UserView
from muster.common.contracts.access_bodies import NewKey, NewUser, UserChange
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE

KEYS, USERS, AUDIT = "/api/v1/keys", "/api/v1/users", "/api/v1/audit"


class AsyncKeyCalls:
    """The API calls about keys, available as `client.keys`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._call = connection.call

    async def list(
        self, *, user_id: str | None = None, limit: int = DEFAULT_PAGE, cursor: str | None = None
    ) -> KeyPage:
        """Return one page of keys, newest first. The page contains no secret of a key."""
        query = [("user_id", user_id), ("limit", limit), ("cursor", cursor)]
        return await self._call("GET", KEYS, KeyPage, query=query)

    async def all(self, *, user_id: str | None = None) -> AsyncGenerator[KeyView]:
        """Yield all keys that the caller may see, newest first."""
        async for page in all_pages(lambda cursor: self.list(user_id=user_id, limit=LARGEST_PAGE, cursor=cursor)):
            for key in page.keys:
                yield key

    async def issue(self, new: NewKey) -> IssuedKey:
        """Create a key. Only the reply to this call contains the key's secret; no later call returns the secret."""
        return await self._call("POST", KEYS, IssuedKey, body=new)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key with immediate effect."""
        await self._call("DELETE", f"{KEYS}/{part(key_id)}", object)


class AsyncUserCalls:
    """The API calls about users, available as `client.users`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._call = connection.call

    async def list(self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None) -> UserPage:
        """Return one page of users, newest first."""
        return await self._call("GET", USERS, UserPage, query=[("limit", limit), ("cursor", cursor)])

    async def all(self) -> AsyncGenerator[UserView]:
        """Yield all users, newest first."""
        async for page in all_pages(lambda cursor: self.list(limit=LARGEST_PAGE, cursor=cursor)):
            for user in page.users:
                yield user

    async def add(self, new: NewUser) -> UserView:
        """Create a user."""
        return await self._call("POST", USERS, UserView, body=new)

    async def update(self, user_id: str, change: UserChange) -> UserView:
        """Set the given fields of a user; the other fields do not change."""
        return await self._call("PATCH", f"{USERS}/{part(user_id)}", UserView, body=change)

    async def delete(self, user_id: str) -> None:
        """Delete a user together with the user's keys."""
        await self._call("DELETE", f"{USERS}/{part(user_id)}", object)


class AsyncAuditCalls:
    """The API calls about the audit log, available as `client.audit`."""

    def __init__(self, connection: AsyncApiConnection) -> None:
        self._call = connection.call

    async def list(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None, **filters: Unpack[AuditFilters]
    ) -> AuditPage:
        """Return one page of the audit entries that match the filters, newest first."""
        query = [*filter_query(dict(filters)), ("limit", limit), ("cursor", cursor)]
        return await self._call("GET", AUDIT, AuditPage, query=query)

    async def all(self, **filters: Unpack[AuditFilters]) -> AsyncGenerator[AuditEntry]:
        """Yield all audit entries that match the filters, newest first."""
        async for page in all_pages(lambda cursor: self.list(limit=LARGEST_PAGE, cursor=cursor, **filters)):
            for entry in page.entries:
                yield entry
