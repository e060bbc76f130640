"""Concurrent changes of users and keys on a real PostgreSQL, in either order, many times."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from muster.common.clock import utc_now
from muster.common.faults import Conflict, NotFound
from muster.common.ids import new_id
from muster.embedded.sql import connected
from muster.management_api.access.domain.claims import TokenClaims
from muster.management_api.access.store.keys import KeyStore
from muster.management_api.access.store.users import UserStore
from muster.management_api.database.engine import ApiDatabase, open_database
from muster.management_api.database.schema import HISTORY
from muster.management_api.database.tables import keys as stored
from tests.support.eventually import eventually

ROUNDS = 40
WAITING = """SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%api.keys%'"""


@pytest.fixture
async def database(shared_database_url: str) -> AsyncIterator[ApiDatabase]:
    await HISTORY.migrate(shared_database_url)
    async with open_database(shared_database_url) as database:
        yield database


@pytest.fixture
def users(database: ApiDatabase) -> UserStore:
    return UserStore(database, now=utc_now, new_id=new_id)


@pytest.fixture
def keys(database: ApiDatabase) -> KeyStore:
    return KeyStore(database, now=utc_now)


def row(user_id: str) -> dict[str, Any]:
    told = {"key_id": new_id("key"), "user_id": user_id, "name": "x", "digest": b"1", "prefix": "mk_", "role": "viewer"}
    return {
        **told,
        "scopes": None,
        "project": None,
        "issued_by": "user:admin",
        "created_at": utc_now(),
        "expires_at": None,
    }


def used(key_id: str) -> sa.Update:
    return sa.update(stored).where(stored.c.key_id == key_id).values(last_used_at=utc_now())


async def made(users: UserStore) -> str:
    return (await users.add(new_id("usr"), name=new_id("usr"), email=None, role="viewer")).user_id


async def outcome(act: Awaitable[object]) -> str:
    try:
        await act
    except NotFound:
        return "not found"
    return "done"


async def test_user_is_deleted_while_keys_are_issued_for_the_user(users: UserStore, keys: KeyStore):
    told: list[tuple[str, str]] = []
    for number in range(ROUNDS):
        user_id = await made(users)
        acts = [keys.add(row(user_id)), users.remove(user_id), keys.add(row(user_id))]
        acts = acts[number % 3 :] + acts[: number % 3]
        outcomes = await asyncio.gather(*(outcome(act) for act in acts))
        told.append((outcomes[(1 - number) % 3], "".join(sorted(set(outcomes)))))
        assert (await keys.page(user_id, None, 10)).keys == []
        with pytest.raises(NotFound):
            await users.get(user_id)

    assert {removal for removal, _ in told} == {"done"}


async def test_user_is_deleted_while_the_uses_of_the_users_keys_are_stored(
    users: UserStore, keys: KeyStore, database: ApiDatabase, shared_database_url: str
):
    user_id = await made(users)
    later, earlier = [(await keys.add(row(user_id) | {"key_id": f"{user_id}-{name}"})).key_id for name in "ba"]
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        # In the order of the keys' ids, as `KeyStore.keep_uses` locks the rows.
        async with database.begin() as writing:
            await writing.execute(used(earlier))
            removal = tasks.create_task(users.remove(user_id))
            async with connected(shared_database_url) as watching:
                await eventually(lambda: watching.fetchval(WAITING))
            await writing.execute(used(later))
        await removal
    with pytest.raises(NotFound):
        await users.get(user_id)


async def test_user_of_a_provider_is_deleted_while_the_users_tokens_are_used(users: UserStore):
    subject = new_id("usr")

    def claims(name: str) -> TokenClaims:
        later = utc_now() + timedelta(minutes=1)
        return TokenClaims(
            issuer="https://id",
            subject=subject,
            name=name,
            email=None,
            role="viewer",
            issued_at=later,
            expires_at=later,
        )

    for number in range(ROUNDS):
        user = await users.seen(claims(f"{number}"), claimed=True)
        shown = [users.seen(claims(f"{number}+"), claimed=True) for _ in range(3)]
        _, *seen = await asyncio.gather(outcome(users.remove(user.user_id)), *shown)
        assert {one.name for one in seen if not isinstance(one, str)} == {f"{number}+"}


async def test_repeated_create_under_the_same_id_returns_the_object_and_names_stay_unique(users: UserStore):
    name, user_id = new_id("usr"), new_id("usr")
    first, again = await asyncio.gather(*(users.add(user_id, name=name, email=None, role="viewer") for _ in range(2)))
    assert first == again
    with pytest.raises(Conflict):
        await users.add(new_id("usr"), name=name, email=None, role="viewer")


async def test_used_or_revoked_key_gets_no_other_secret(users: UserStore, keys: KeyStore):
    user_id = await made(users)
    first = row(user_id)
    view = await keys.add(first)
    assert await keys.add(first | {"digest": b"2"}) == view
    known = await keys.known(view.key_id)
    assert known is not None
    assert known.digest == b"2"
    with pytest.raises(Conflict):
        await keys.add(first | {"issued_by": "user:another"})
    await keys.revoke(view.key_id, None, by="user:admin")
    with pytest.raises(Conflict):
        await keys.add(first | {"digest": b"3"})
